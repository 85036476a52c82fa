"""The folder on the local disk that shards are kept in: whole or absent, and within a limit."""

import fcntl
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from loader.disk import remove_drafts, write_whole, writing
from loader.source import Source
from loader.transfer import part_path
from shards.errors import CacheError
from shards.manifest import NAME, dump_manifest
from shards.mounts import file_system, is_local, on_colab

log = logging.getLogger(__name__)

_RESERVE_BYTES = 10 * 10**9
_POLL_S = 0.05
_REMOVAL_POLLS = 20
_RELIEF_POLLS = 20  # what another process holds and does not read, it lets go of at its next sample
_PART = re.compile(r"\.([0-9]{1,18})\.part$")
_TIMES_GONE = 2
_BESIDE = (".idx", ".sha256")


class Pin:
    """A shared lock on a cached file: as long as it is held, nobody evicts the file."""

    def __init__(self, path: Path, lock: int) -> None:
        """Hold a lock; -1 is none, in a cache that cannot be written."""
        self.path = path
        self._lock, self._process = lock, os.getpid()

    def release(self) -> None:
        if self._lock >= 0:
            _unlock(self._lock, self._process)
            self._lock = -1


class ShardCache:
    """Files below one folder, shared by any number of processes.

    A file is fetched under an exclusive lock and appears by rename, so whoever asks gets it whole
    and it is fetched once. Who uses it shares another lock, and is in nobody's way who fetches it.
    Locks are the kernel's (flock) and vanish with a process that dies.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        """Open or make a cache.

        Args:
            limit_bytes: None is half of what is free now, leaving 10 GB or 10% of the disk.

        Raises:
            ValueError: if the folder lies on a network file system, or the limit is not positive.
            CacheError: if it cannot be made.
        """
        if limit_bytes is not None and limit_bytes <= 0:
            raise ValueError(f"cache_bytes must be positive, got {limit_bytes}")
        if not is_local(folder):
            raise ValueError(
                f"cache_dir {folder} lies on a {file_system(folder)} file system; a cache has to "
                "be on a local disk: pass cache_dir, or set SHARD_CACHE_DIR"
            )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_drafts(_entries(folder))
        self.folder, self._told = folder, False
        self._pressure = folder / "pressure"
        self._seen = _modified_ns(self._pressure)
        self.limit_bytes = _default_limit(folder) if limit_bytes is None else limit_bytes

    def acquire(
        self,
        name: str,
        fetch: Callable[[Path], None],
        *,
        need_bytes: int,
        stop: threading.Event,
        relieve: Callable[[], None] = lambda: None,
    ) -> tuple[Pin, bool]:
        """The file ``name``, fetched if it is not there, and whether it was there already.

        Args:
            name: relative path within the cache.
            fetch: makes the file at the path given, by rename.
            need_bytes: room to make before fetching.
            stop: ends a wait for another process; then InterruptedError is raised.
            relieve: called when there is no room, to release pins that can be spared.

        Raises:
            CacheError: if the folder cannot be written; then no part of the file stays.
        """
        for _ in range(_TIMES_GONE):
            try:
                return self._acquire(name, fetch, need_bytes, stop, relieve)
            except CacheError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                log.warning("%s: somebody removed it; it is made anew", self.folder)
        return self._acquire(name, fetch, need_bytes, stop, relieve)

    def _acquire(
        self,
        name: str,
        fetch: Callable[[Path], None],
        need_bytes: int,
        stop: threading.Event,
        relieve: Callable[[], None],
    ) -> tuple[Pin, bool]:
        path, hit = self.folder / name, True
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            if (pin := _pin(path, stop)) is not None:
                return pin, hit
            with _exclusive(_coming(path)) as alone:
                if alone and not path.exists():
                    hit = False
                    with _locked(self.folder / "room", stop), writing(path.parent):
                        self._make_room(need_bytes, relieve, stop)
                        part_path(path, need_bytes).touch()  # takes the room it will need
                    fetch(path)
            if not alone and stop.wait(_POLL_S):
                raise InterruptedError(f"stopped while waiting for {path}")

    def find(self, name: str, *, stop: threading.Event) -> Pin | None:
        """The file ``name`` if it is there."""
        path = self.folder / name
        return _pin(path, stop) if path.exists() else None

    def remove(self, name: str, *, stop: threading.Event) -> None:
        """Remove a damaged file and its index, unless somebody goes on using it.

        Who fetches ahead holds it for a moment; who reads it found it whole.
        """
        for _ in range(_REMOVAL_POLLS):
            if _evict(self.folder / name) or stop.wait(_POLL_S):
                return

    def discard(self, name: str) -> None:
        """Remove a file that was found to be damaged, whoever reads it: they keep what they have.

        Raises:
            CacheError: if it cannot be removed.
        """
        with writing(self.folder):
            _remove(self.folder / name)

    def retire(self, name: str) -> None:
        """Let a file be the first to leave when room is needed."""
        with suppress(OSError):
            os.utime(self.folder / name, (0, 0))

    def keep(self, name: str, make: Callable[[], bytes]) -> None:
        """Make a small file, by rename, unless it is there; it does not count to the limit."""
        path = self.folder / name
        if not path.exists():
            data = make()
            with writing(path.parent):
                write_whole(path, data)

    def is_pressed(self) -> bool:
        """Whether another process has asked for room since this was last called."""
        modified_ns = _modified_ns(self._pressure)
        pressed, self._seen = modified_ns != self._seen, modified_ns
        return pressed

    def _make_room(
        self, need_bytes: int, relieve: Callable[[], None], stop: threading.Event
    ) -> None:
        """Evict files, the least recently used first and none in use, until there is room."""
        if sum(size for _, size in _files(self.folder)) + need_bytes <= self.limit_bytes:
            return
        relieve()  # or what was read would stay, and what is yet to be read would go
        excess = self._evict_all(need_bytes)
        if excess > 0:
            self._ask_others()
        for _ in range(1 if self._told else _RELIEF_POLLS):
            if excess <= 0 or stop.wait(_POLL_S):
                break
            excess = self._evict_all(need_bytes)
        if excess > 0 and not self._told:
            self._told = True
            log.warning(
                "the shard cache %s outgrows its limit of %d bytes by %d: all of it is in use; "
                "raise cache_bytes or lower shuffle",
                *(self.folder, self.limit_bytes, excess),
            )

    def _evict_all(self, need_bytes: int) -> int:
        """Evict as many files as are needed and can be spared; the bytes above the limit then."""
        files = _files(self.folder)
        excess = sum(size for _, size in files) + need_bytes - self.limit_bytes
        for path, size in files:
            if excess > 0 and _evict(Path(path)):
                excess -= size
        return excess

    def _ask_others(self) -> None:
        """Have other processes close the shards that they hold open and do not read."""
        with suppress(OSError):  # a full disk: then they keep them
            self._pressure.write_text(f"{os.getpid()} needs room\n")
        self._seen = _modified_ns(self._pressure)


def pin_if_cached(path: Path, *, stop: threading.Event) -> Pin | None:
    """Hold a file that is read where it lies, if that is in a cache: its lock lies beside it."""
    return _pin(path, stop) if os.access(_lock_path(path), os.W_OK) else None


def keep_manifests(cache: ShardCache, sources: Sequence[Source]) -> None:
    """Put manifests into a cache, so that a dataset's folder there is a dataset itself."""
    for source in sources:
        for folder in source.shards.used_folders():
            if folder.manifest is not None:
                cache.keep(f"{folder.name}/{NAME}", partial(dump_manifest, folder.manifest))


def default_folder(environ: dict[str, str] | None = None) -> Path:
    """Where a cache goes when no folder is given: the contract's list of places."""
    environ = dict(os.environ) if environ is None else environ
    if given := environ.get("SHARD_CACHE_DIR"):
        return Path(given)
    if scratch := environ.get("SLURM_TMPDIR"):
        return Path(scratch) / "shard-cache"
    if on_colab(environ):
        return Path("/content/shard-cache")
    home = environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "shard-cache"


def _modified_ns(path: Path) -> int:
    """When a file was last written; 0 where there is none, or it cannot be told."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _default_limit(folder: Path) -> int:
    try:
        disk = shutil.disk_usage(folder)
    except FileNotFoundError:  # it was there just now, and will be made anew
        disk = shutil.disk_usage(folder.parent)
    reserve = max(_RESERVE_BYTES, disk.total // 10)
    used = held_bytes(folder)
    return max(min(used + disk.free // 2, used + disk.free - reserve), 1)


def held_bytes(folder: Path) -> int:
    """Bytes of the shards in a cache; they make room for others. 0 where there is none."""
    return sum(size for _, size in _files(folder))


def _files(folder: Path) -> list[tuple[str, int]]:
    """Cached tars and parts of them with their bytes, the least recently used first.

    A part counts as what it will be. Locks, indexes and manifests are too small to count.
    """
    found = []
    for entry in _entries(folder):
        if not entry.name.endswith((".tar", ".part")):
            continue
        try:
            status = entry.stat()
        except (FileNotFoundError, PermissionError):  # evicted by another process just now
            continue
        told = _PART.search(entry.name)
        coming = int(told[1]) if told else 0
        found.append((status.st_mtime, entry.path, max(status.st_size, coming)))
    return [(path, size) for _, path, size in sorted(found)]


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """What lies in the folders of a cache, as far as they are there and this user's."""
    with suppress(FileNotFoundError), os.scandir(folder) as homes:
        for home in homes:
            if home.is_dir():
                # others' such as lost+found
                with suppress(FileNotFoundError, PermissionError), os.scandir(home) as entries:
                    yield from entries


def _pin(path: Path, stop: threading.Event) -> Pin | None:
    """Hold a file and mark it as used; None if it is not there."""
    try:
        lock = _lock(path, fcntl.LOCK_SH, stop)
    except CacheError:
        if path.exists():  # where no lock can be made, little is evicted; what is open stays
            return Pin(path, -1)
        raise
    pin = Pin(path, lock)
    if _touch(path):
        return pin
    pin.release()
    return None


def _touch(path: Path) -> bool:
    """Mark a file as used now; False if there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # of a folder that can only be read, or of somebody else's file
        return path.exists()
    return True


def _coming(path: Path) -> Path:
    """What stands for a file that is being fetched, in the names of locks."""
    return path.with_name(f"{path.name}.fetch")


def _lock_path(path: Path) -> Path:
    if path.suffix == ".part":
        path = _coming(path.with_name(path.name.rsplit(".", 2)[0]))
    return path.with_name(f".{path.name}.lock")


def _lock(path: Path, kind: int, stop: threading.Event) -> int:
    """A descriptor that holds a lock on ``path``; lock files are never removed.

    Raises:
        InterruptedError: if ``stop`` came first.
        CacheError: if there is no lock and none can be made.
    """
    lock = _lock_path(path)
    while True:
        with writing(path.parent):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while not _try_lock(descriptor, kind):
                if stop.wait(_POLL_S):
                    raise InterruptedError(f"stopped while waiting for {path}")
            if _is_file_at(lock, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it went with its folder, and others lock another one


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _unlock(descriptor: int, process: int) -> None:
    """Give a lock back, also where a child that was forked meanwhile has its descriptor too.

    Args:
        process: that took the lock; a child of it only closes what it has.
    """
    if os.getpid() == process:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def _locked(path: Path, stop: threading.Event) -> Iterator[None]:
    """Hold an exclusive lock that nobody keeps for long."""
    descriptor, process = _lock(path, fcntl.LOCK_EX, stop), os.getpid()
    try:
        yield
    finally:
        _unlock(descriptor, process)


@contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    """Hold a file's exclusive lock; False, without it, if somebody else holds any."""
    at_once, process = threading.Event(), os.getpid()
    at_once.set()
    try:
        descriptor = _lock(path, fcntl.LOCK_EX, at_once)
    except InterruptedError:
        yield False
        return
    try:
        yield True
    finally:
        _unlock(descriptor, process)


def _evict(path: Path) -> bool:
    """Remove a file that nobody uses; False if somebody does."""
    with _exclusive(path) as alone, writing(path.parent):
        if alone:
            _remove(path)
    return alone


def _remove(path: Path) -> None:
    """Remove a file of the cache, and what is kept beside it."""
    path.unlink(missing_ok=True)
    for kind in _BESIDE:
        path.with_name(path.name + kind).unlink(missing_ok=True)
