"""A folder as slow as Drive: by FUSE, or by fsspec where FUSE is missing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

try:
    from benchmarks.slowfs import BYTES_PER_S, LATENCY_S
    from benchmarks.slowfs import mounted as by_fuse
except (ImportError, OSError):  # no mfusepy, or no libfuse for it
    LATENCY_S, BYTES_PER_S = 0.1, 10e6
    by_fuse = None

PROTOCOL = "slowdrive"
FUSE = by_fuse is not None and Path("/dev/fuse").exists()


@contextmanager
def slow(folder: Path, *, fails_every: int) -> Iterator[str]:
    """Where a folder is found slowly: a path, or a URL of ``SlowFileSystem``.

    Raises:
        OSError: if nothing can be mounted, or reads should fail and there is no FUSE.
    """
    if by_fuse is not None and FUSE:
        with by_fuse(folder, fails_every=fails_every) as point:
            yield str(point)
    elif fails_every:
        raise OSError("the stand-in for FUSE does not fail")
    else:
        yield f"{PROTOCOL}://{folder.resolve()}"


class SlowFileSystem(LocalFileSystem):
    """``slowdrive:///path``: a round trip for what is asked, and one link for a reader's bytes."""

    protocol = PROTOCOL
    local_file = False
    cachable = False

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        time.sleep(LATENCY_S)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = False, **options: Any) -> list[Any]:
        time.sleep(LATENCY_S)
        return super().ls(path, detail=detail, **options)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        time.sleep(LATENCY_S)
        data = super().cat_file(path, start, end, **options)
        time.sleep(len(data) / BYTES_PER_S)
        return data

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        time.sleep(LATENCY_S)
        return SlowFile(super()._open(path, mode, **options))


class SlowFile:
    """An open file whose bytes take their time."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        time.sleep(len(data) / BYTES_PER_S)
        return data

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)
        time.sleep(count / BYTES_PER_S)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "SlowFile":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


fsspec.register_implementation(PROTOCOL, SlowFileSystem, clobber=True)
