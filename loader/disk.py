"""The disk that the cache lies on: files that appear whole, trouble with its remedy, speed."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shards.errors import FetchError

_PROBE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class DiskRate:
    """Bytes a second that a disk writes, and that it reads past the page cache."""

    write: float
    read: float


def measure(folder: Path) -> DiskRate:
    """Write and read a file in a folder.

    Raises:
        OSError: if the folder cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        data, began = os.urandom(_PROBE_BYTES), time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(file.fileno(), _PROBE_BYTES, 0)
        read = time.perf_counter()
    return DiskRate(_PROBE_BYTES / (written - began), _PROBE_BYTES / (read - written))


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file by rename: whole or absent, also after a loss of power."""
    draft = path.with_name(f".{path.name}.{threading.get_native_id()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While something is written into a folder of the cache.

    Raises:
        FetchError: where it cannot be; no source is to blame, so nothing is tried again.
    """
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{folder}: the shard cache cannot be written: {error}. "
            "Make room there, lower cache_bytes or pass another cache_dir"
        ) from error
