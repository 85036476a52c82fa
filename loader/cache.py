"""The folder on the local disk that shards are kept in: whole or absent, and within a limit."""

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loader.mounts import file_system, is_local

log = logging.getLogger(__name__)

_RESERVE_BYTES = 10 * 10**9
_POLL_S = 0.05


class Pin:
    """A shared lock on a cached file: as long as it is held, nobody evicts the file."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class ShardCache:
    """Files below one folder, shared by any number of processes.

    A file is fetched under an exclusive lock and appears by rename, so whoever asks gets it whole
    and it is fetched once. Locks are the kernel's (flock) and vanish with a process that dies.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        """Open or make a cache.

        Args:
            limit_bytes: None is half of what is free now, leaving 10 GB or 10% of the disk.

        Raises:
            ValueError: if the folder lies on a network file system, or the limit is not positive.
        """
        if limit_bytes is not None and limit_bytes <= 0:
            raise ValueError(f"cache_bytes must be positive, got {limit_bytes}")
        if not is_local(folder):
            raise ValueError(
                f"cache_dir {folder} lies on a {file_system(folder)} file system; a cache has to "
                "be on a local disk: pass cache_dir, or set SHARD_CACHE_DIR"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.limit_bytes = _default_limit(folder) if limit_bytes is None else limit_bytes

    def acquire(
        self, name: str, fetch: Callable[[Path], None], *, need_bytes: int, stop: threading.Event
    ) -> tuple[Pin, bool]:
        """The file ``name``, fetched if it is not there, and whether it was there already.

        Args:
            name: relative path within the cache.
            fetch: makes the file at the path given, by rename.
            need_bytes: room to make before fetching.
            stop: ends a wait for another process; then InterruptedError is raised.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hit = True
        while True:
            lock = _lock(path, fcntl.LOCK_SH, stop)
            if _touch(path):
                return Pin(path, lock), hit
            os.close(lock)
            with _exclusive(path, stop):
                if not path.exists():
                    hit = False
                    self._make_room(need_bytes)
                    fetch(path)

    def _make_room(self, need_bytes: int) -> None:
        """Evict files, the least recently used first and none in use, until there is room."""
        files = sorted(_files(self.folder), key=lambda file: file[1].st_mtime)
        excess = sum(status.st_size for _, status in files) + need_bytes - self.limit_bytes
        for path, status in files:
            if excess <= 0:
                return
            if _evict(path):
                excess -= status.st_size
        if excess > 0:
            log.warning(
                "the shard cache %s outgrows its limit of %d bytes by %d: all of it is in use; "
                "raise cache_bytes or lower shuffle",
                *(self.folder, self.limit_bytes, excess),
            )


def default_folder(environ: dict[str, str] | None = None) -> Path:
    """Where a cache goes when no folder is given: the contract's list of places."""
    environ = dict(os.environ) if environ is None else environ
    if given := environ.get("SHARD_CACHE_DIR"):
        return Path(given)
    if scratch := environ.get("SLURM_TMPDIR"):
        return Path(scratch) / "shard-cache"
    if "COLAB_RELEASE_TAG" in environ or Path("/content/sample_data").is_dir():
        return Path("/content/shard-cache")
    home = environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "shard-cache"


def _default_limit(folder: Path) -> int:
    disk = shutil.disk_usage(folder)
    reserve = max(_RESERVE_BYTES, disk.total // 10)
    used = sum(status.st_size for _, status in _files(folder))
    return max(min(used + disk.free // 2, used + disk.free - reserve), 1)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Cached tars and parts of them; locks, indexes and manifests are too small to count."""
    for pattern in ("*/*.tar", "*/*.part"):
        for path in folder.glob(pattern):
            try:
                yield path, path.stat()
            except FileNotFoundError:  # evicted by another process just now
                continue


def _touch(path: Path) -> bool:
    """Mark a file as used now; False if there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name.removesuffix('.part')}.lock")


def _lock(path: Path, kind: int, stop: threading.Event) -> int:
    """A descriptor that holds a lock on ``path``; lock files are never removed."""
    descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if stop.wait(_POLL_S):
                    raise InterruptedError(f"stopped while waiting for {path}") from None
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def _exclusive(path: Path, stop: threading.Event) -> Iterator[None]:
    descriptor = _lock(path, fcntl.LOCK_EX, stop)
    try:
        yield
    finally:
        os.close(descriptor)


def _evict(path: Path) -> bool:
    """Remove a file that nobody uses; False if somebody does."""
    stop = threading.Event()
    stop.set()
    try:
        with _exclusive(path, stop):
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".idx").unlink(missing_ok=True)
    except InterruptedError:
        return False
    return True
