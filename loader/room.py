"""Room in the folder of a cache: how much lies there, and who leaves when it outgrows its limit."""

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from loader.disk import writing
from loader.locks import POLL_S, exclusive

log = logging.getLogger(__name__)

_RESERVE_BYTES = 10 * 10**9
_RELIEF_POLLS = 20  # what another process holds and does not read, it lets go of at its next sample
_PART = re.compile(r"\.([0-9]{1,18})\.part$")
_BESIDE = (".idx", ".sha256")


class Room:
    """A limit that the files of a folder are kept within, by whichever process adds one."""

    def __init__(self, folder: Path, limit_bytes: int | None) -> None:
        """None is half of what is free now, leaving 10 GB or 10% of the disk."""
        self._folder, self._told = folder, False
        self._pressure = folder / "pressure"
        self._seen = _modified_ns(self._pressure)
        self.limit_bytes = _default_limit(folder) if limit_bytes is None else limit_bytes

    def is_pressed(self) -> bool:
        """Whether another process has asked for room since this was last called."""
        modified_ns = _modified_ns(self._pressure)
        pressed, self._seen = modified_ns != self._seen, modified_ns
        return pressed

    def make(self, need_bytes: int, *, relieve: Callable[[], None], stop: threading.Event) -> None:
        """Evict files, the least recently used first and none in use, until there is room.

        Args:
            relieve: called where there is none, to release pins that can be spared.
            stop: ends a wait for others.
        """
        if held_bytes(self._folder) + need_bytes <= self.limit_bytes:
            return
        relieve()  # or what was read would stay, and what is yet to be read would go
        excess = self._evict_all(need_bytes)
        if excess > 0:
            self._ask_others()
        for _ in range(1 if self._told else _RELIEF_POLLS):
            if excess <= 0 or stop.wait(POLL_S):
                break
            excess = self._evict_all(need_bytes)
        if excess > 0 and not self._told:
            self._told = True
            log.warning(
                "the shard cache %s outgrows its limit of %d bytes by %d: all of it is in use; "
                "raise cache_bytes or lower shuffle",
                *(self._folder, self.limit_bytes, excess),
            )

    def _evict_all(self, need_bytes: int) -> int:
        """Evict as many files as are needed and can be spared; the bytes above the limit then."""
        files = _files(self._folder)
        excess = sum(size for _, size in files) + need_bytes - self.limit_bytes
        for path, size in files:
            if excess > 0 and evict(Path(path)):
                excess -= size
        return excess

    def _ask_others(self) -> None:
        """Have other processes close the shards that they hold open and do not read."""
        with suppress(OSError):  # a full disk: then they keep them
            self._pressure.write_text(f"{os.getpid()} needs room\n")
        self._seen = _modified_ns(self._pressure)


def held_bytes(folder: Path) -> int:
    """Bytes of the shards in a cache; they make room for others. 0 where there is none."""
    return sum(size for _, size in _files(folder))


def entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """What lies in the folders of a cache, as far as they are there and this user's."""
    with suppress(FileNotFoundError), os.scandir(folder) as homes:
        for home in homes:
            if home.is_dir():
                # others' such as lost+found
                with suppress(FileNotFoundError, PermissionError), os.scandir(home) as found:
                    yield from found


def evict(path: Path) -> bool:
    """Remove a file that nobody uses; False if somebody does.

    Raises:
        CacheError: if it cannot be removed.
    """
    with exclusive(path) as alone, writing(path.parent):
        if alone:
            remove(path)
    return alone


def remove(path: Path) -> None:
    """Remove a file of the cache, whoever uses it, and what is kept beside it."""
    path.unlink(missing_ok=True)
    for kind in _BESIDE:
        path.with_name(path.name + kind).unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[str, int]]:
    """Cached tars and parts of them with their bytes, the least recently used first.

    A part counts as what it will be. Locks, indexes and manifests are too small to count.
    """
    found = []
    for entry in entries(folder):
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


def _default_limit(folder: Path) -> int:
    try:
        disk = shutil.disk_usage(folder)
    except FileNotFoundError:  # it was there just now, and will be made anew
        disk = shutil.disk_usage(folder.parent)
    used = held_bytes(folder)
    limit = min(used + disk.free // 2, used + disk.free - reserved_bytes(disk.total))
    if limit <= 0:
        log.warning(
            "the disk of the shard cache %s has %.1f GB free, of which %.1f GB stay so: nothing is "
            "cached; pass cache_bytes, or cache_dir on another disk",
            *(folder, disk.free / 1e9, reserved_bytes(disk.total) / 1e9),
        )
    return max(limit, 1)


def reserved_bytes(total_bytes: int) -> int:
    """What a cache without a limit of its own leaves free on a disk of so many bytes."""
    return max(_RESERVE_BYTES, total_bytes // 10)


def _modified_ns(path: Path) -> int:
    """When a file was last written; 0 where there is none, or it cannot be told."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
