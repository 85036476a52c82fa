"""The folder on the local disk that shards are kept in: whole or absent, and within a limit."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from loader.disk import remove_drafts, write_whole, writing
from loader.locks import POLL_S, coming, exclusive, locked
from loader.pin import Pin, pin
from loader.room import Room, entries, evict, remove
from loader.source import Source
from loader.transfer import part_path
from shards.errors import CacheError
from shards.manifest import NAME, dump_manifest
from shards.mounts import file_system, is_local, on_colab
from shards.values import is_real

log = logging.getLogger(__name__)

_FIRST_POLL_S = 0.005
_REMOVAL_POLLS = 20
_TIMES_GONE = 2


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
        require_limit(limit_bytes)
        if not is_local(folder):
            raise ValueError(
                f"cache_dir {folder} lies on a {file_system(folder)} file system; a cache has to "
                "be on a local disk: pass cache_dir, or set SHARD_CACHE_DIR"
            )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_drafts(entries(folder))
        self.folder, self._room = folder, Room(folder, limit_bytes)

    @property
    def limit_bytes(self) -> int:
        """What the shards in it may take."""
        return self._room.limit_bytes

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
        pause_s = _FIRST_POLL_S  # a small file may be fetched, read and evicted within POLL_S
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            if (held := pin(path, stop=stop)) is not None:
                return held, hit
            with exclusive(coming(path)) as alone:
                if alone and not path.exists():
                    hit = False
                    with locked(self.folder / "room", stop), writing(path.parent):
                        self._room.make(need_bytes, relieve=relieve, stop=stop)
                        part_path(path, need_bytes).touch()  # takes the room it will need
                    fetch(path)
            if not alone:
                if stop.wait(pause_s):
                    raise InterruptedError(f"stopped while waiting for {path}")
                pause_s = min(2 * pause_s, POLL_S)

    def find(self, name: str, *, stop: threading.Event) -> Pin | None:
        """The file ``name`` if it is there."""
        path = self.folder / name
        return pin(path, stop=stop) if path.exists() else None

    def remove(self, name: str, *, stop: threading.Event) -> None:
        """Remove a damaged file and its index, unless somebody goes on using it.

        Who fetches ahead holds it for a moment; who reads it found it whole.
        """
        for _ in range(_REMOVAL_POLLS):
            if evict(self.folder / name) or stop.wait(POLL_S):
                return

    def discard(self, name: str) -> None:
        """Remove a file that was found to be damaged, whoever reads it: they keep what they have.

        Raises:
            CacheError: if it cannot be removed.
        """
        with writing(self.folder):
            remove(self.folder / name)

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
        return self._room.is_pressed()


def require_limit(limit_bytes: object) -> None:
    """Raise ValueError if it is neither a number of bytes, more than none, nor None."""
    if limit_bytes is None:
        return
    if not is_real(limit_bytes):
        raise ValueError(f"cache_bytes must be a number of bytes, got {limit_bytes!r}")
    if not limit_bytes > 0:
        raise ValueError(f"cache_bytes must be positive, got {limit_bytes}")


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
