"""Local copies of sources that lie on a mount, so that each of them is read there once."""

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from errno import EINTR
from functools import lru_cache
from itertools import count
from pathlib import Path
from stat import S_ISREG
from typing import Protocol, Self, TypeVar

from packer.interrupt import interrupted
from shards.faults import FaultError
from shards.mounts import file_system, is_local

# of a larger file not all may be needed, and what is waited for is little against its bytes
WHOLE_BYTES = 16 * 10**6
KEPT_BYTES = 16 * 10**9  # of copies made before anything is planned
_DISK_SHARE = 10  # copies take no more than this part of what the disk has free
_CHUNK_BYTES = 1 << 20
_PREFIX = "sources-"


class _Sized(Protocol):
    @property
    def bytes(self) -> int: ...


Info = TypeVar("Info", bound=_Sized)


def as_it_is(path: Path) -> Path:
    """Where to read a source of which there is no copy."""
    return path


class Copies:
    """Copies of small files on mounts, by their paths, in a folder that goes with the context.

    What lies on a disk, is large, finds no room or cannot be copied is read where it is. All
    methods may be called by any thread.
    """

    def __init__(self, root: Path, *, threads: int, kept_bytes: int = KEPT_BYTES) -> None:
        """Make nothing yet.

        Args:
            root: a local folder, in which the folder of copies is made when it is needed.
            threads: files to read at a time.
            kept_bytes: of what ``look`` copies, at most.
        """
        self.threads = threads
        self._root, self._room = root, kept_bytes
        self._lock, self._numbers = threading.Lock(), count()
        self._folder: Path | None = None
        self._held = -1
        self._copies: dict[Path, Path] = {}
        self._sizes: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._held)

    def at(self, path: Path) -> Path:
        """Where to read a source: its copy, if there is one."""
        return self._copies.get(path, path)

    def look(self, look: Callable[[Path], Info], path: Path) -> Info:
        """``look`` at a source, or at the copy that is kept of it while there is room.

        Raises:
            FaultError: of ``look``; it names the source.
        """
        if not self._on_mount(path):
            return look(path)
        if self._room > 0:
            self._copy(path, kept=True)
        at = self.at(path)
        try:
            info = look(at)
        except FaultError as fault:
            raise FaultError(fault.kind, str(fault).replace(str(at), str(path))) from fault
        self._sizes[path] = info.bytes
        return info

    def lacking(self, paths: Iterable[Path]) -> dict[Path, int]:
        """Those that were looked at on a mount and are still to be copied, and their bytes."""
        sizes = {path: self._sizes.get(path) for path in paths if path not in self._copies}
        return {path: size for path, size in sizes.items() if size and size <= WHOLE_BYTES}

    def fetch(self, path: Path) -> None:
        """Copy a source, whatever room is left for those that are kept."""
        self._copy(path, kept=False)

    def room(self) -> int:
        """Bytes that the disk has for copies that are not kept."""
        return shutil.disk_usage(self._into()).free // _DISK_SHARE

    def drop(self, paths: Iterable[Path]) -> None:
        """Remove copies."""
        for path in paths:
            copy = self._copies.pop(path, None)
            if copy is not None:
                copy.unlink(missing_ok=True)

    def _copy(self, path: Path, *, kept: bool) -> None:
        try:
            found = path.stat()
            if not S_ISREG(found.st_mode) or found.st_size > WHOLE_BYTES:
                return
            folder = self._into()
            if kept and not self._take(found.st_size):
                return
            copy = folder / f"{next(self._numbers)}{path.suffix}"
            try:
                _read_into(copy, path)
            except OSError:
                copy.unlink(missing_ok=True)
                raise
        except OSError:  # read it where it is: whoever does can say why
            return
        self._copies[path] = copy

    def _take(self, size: int) -> bool:
        """Take room of what may be kept; once something finds none, nothing does."""
        with self._lock:
            self._room -= size
            return self._room >= 0

    def _into(self) -> Path:
        """The folder, made at the first call, when what killed builds left is removed."""
        with self._lock:
            if self._folder is None:
                self._root.mkdir(parents=True, exist_ok=True)
                _sweep(self._root)
                self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._root))
                self._held = os.open(self._folder, os.O_RDONLY)
                fcntl.flock(self._held, fcntl.LOCK_EX)
                free = shutil.disk_usage(self._folder).free
                self._room = min(self._room, free // _DISK_SHARE)
            return self._folder

    def _on_mount(self, path: Path) -> bool:
        return _is_mount(path.parent) and not _is_mount(self._root)


@lru_cache(maxsize=1 << 16)
def _is_mount(folder: Path) -> bool:
    return not is_local(folder) and file_system(folder) != "unknown"


def _read_into(copy: Path, path: Path) -> None:
    with path.open("rb", buffering=0) as source, copy.open("wb", buffering=0) as target:
        while chunk := source.read(_CHUNK_BYTES):
            if interrupted():
                raise InterruptedError(EINTR, os.strerror(EINTR), str(path))
            target.write(chunk)


def _sweep(root: Path) -> None:
    """Remove the copies of builds that were killed: the kernel has let go of their locks."""
    for folder in root.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
