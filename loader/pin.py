"""Files of a cache that somebody uses: held, so that nobody evicts them."""

import fcntl
import os
import threading
from pathlib import Path

from loader.locks import lock, lock_path, unlock
from shards.errors import CacheError


class Pin:
    """A shared lock on a cached file: as long as it is held, nobody evicts the file."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Hold the lock of a descriptor; -1 is none, in a cache that cannot be written."""
        self.path = path
        self._lock, self._process = descriptor, os.getpid()

    def release(self) -> None:
        if self._lock >= 0:
            unlock(self._lock, self._process)
            self._lock = -1


def pin(path: Path, *, stop: threading.Event) -> Pin | None:
    """Hold a file and mark it as used; None if it is not there.

    Raises:
        InterruptedError: if ``stop`` came first.
        CacheError: if it is not there, and the folder cannot be written.
    """
    try:
        held = Pin(path, lock(path, fcntl.LOCK_SH, stop))
    except CacheError:
        if path.exists():  # where no lock can be made, little is evicted; what is open stays
            return Pin(path, -1)
        raise
    if _touch(path):
        return held
    held.release()
    return None


def pin_if_cached(path: Path, *, stop: threading.Event) -> Pin | None:
    """Hold a file that is read where it lies, if that is in a cache: its lock lies beside it."""
    return pin(path, stop=stop) if os.access(lock_path(path), os.W_OK) else None


def _touch(path: Path) -> bool:
    """Mark a file as used now; False if there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # of a folder that can only be read, or of somebody else's file
        return path.exists()
    return True
