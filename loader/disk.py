"""The disk that the cache lies on: files that appear whole, trouble with its remedy, speed."""

import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from shards.errors import CacheError

_PROBE_BYTES = 16 << 20
_FIRST_BYTES = 4096
_CHUNK_BYTES = 1 << 18
_DRAFT = re.compile(r"\.(\d+)-\d+\.draft$")


@dataclass(frozen=True, slots=True)
class DiskRate:
    """Bytes a second that a disk writes, and that it reads past the page cache."""

    write: float
    read: float


@dataclass(frozen=True, slots=True)
class ReadRate:
    """What reading a few files was like.

    Attributes:
        latency_s: to open a file and have its first bytes, the median.
        bytes_per_s: of what follows in the same files; NaN where that is too little to tell.
    """

    latency_s: float
    bytes_per_s: float


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))


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


def sample_reads(
    files: Sequence[Path], *, limit_bytes: int = 8 << 20, limit_s: float = 3.0
) -> ReadRate:
    """Read files, at least one, past the page cache, up to a number of bytes and of seconds.

    Raises:
        OSError: if one cannot be read.
    """
    began = time.perf_counter()
    latencies = [_open_s(files[0])]
    for path in files[1:]:
        if time.perf_counter() < began + limit_s / 2:
            latencies.append(_open_s(path))
    size, seconds = 0, 0.0
    for path in files:
        with path.open("rb", buffering=0) as file:
            file.seek(_FIRST_BYTES)
            start = time.perf_counter()
            while size < limit_bytes and time.perf_counter() < began + limit_s:
                if not (chunk := file.read(_CHUNK_BYTES)):
                    break
                size += len(chunk)
            seconds += time.perf_counter() - start
    return ReadRate(median(latencies), size / seconds if size >= _CHUNK_BYTES else math.nan)


def _open_s(path: Path) -> float:
    """Seconds to open a file and read its first bytes."""
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read(_FIRST_BYTES)
    return time.perf_counter() - began


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file by rename: whole or absent, also after a loss of power."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.draft")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(entries: Iterable["os.DirEntry[str]"]) -> None:
    """Remove drafts that ``write_whole`` left in a process that was killed."""
    for entry in entries:
        if (match := _DRAFT.search(entry.name)) and not Path(f"/proc/{match[1]}").exists():
            with suppress(OSError):
                os.unlink(entry.path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While something is written into a folder of the cache.

    Raises:
        CacheError: where it cannot be; no source is to blame, so nothing is tried again.
    """
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{folder}: the shard cache cannot be written: {error}. "
            "Make room there, lower cache_bytes or pass another cache_dir"
        ) from error
