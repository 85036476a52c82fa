"""Locks on files of a cache, by name: the kernel's (flock), which go with a process that dies."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loader.disk import writing

POLL_S = 0.05


@contextmanager
def locked(path: Path, stop: threading.Event) -> Iterator[None]:
    """Hold an exclusive lock that nobody keeps for long."""
    descriptor, process = lock(path, fcntl.LOCK_EX, stop), os.getpid()
    try:
        yield
    finally:
        unlock(descriptor, process)


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a file's exclusive lock; False, without it, if somebody else holds any."""
    at_once, process = threading.Event(), os.getpid()
    at_once.set()
    try:
        descriptor = lock(path, fcntl.LOCK_EX, at_once)
    except InterruptedError:
        yield False
        return
    try:
        yield True
    finally:
        unlock(descriptor, process)


def lock(path: Path, kind: int, stop: threading.Event) -> int:
    """A descriptor that holds a lock on ``path``; lock files are never removed.

    Args:
        kind: ``fcntl.LOCK_SH`` or ``LOCK_EX``.

    Raises:
        InterruptedError: if ``stop`` came first.
        CacheError: if there is no lock and none can be made.
    """
    beside = lock_path(path)
    while True:
        with writing(path.parent):
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while not _try_lock(descriptor, kind):
                if stop.wait(POLL_S):
                    raise InterruptedError(f"stopped while waiting for {path}")
            if _is_file_at(beside, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it went with its folder, and others lock another one


def unlock(descriptor: int, process: int) -> None:
    """Give a lock back, also where a child that was forked meanwhile has its descriptor too.

    Args:
        process: that took the lock; a child of it only closes what it has.
    """
    if os.getpid() == process:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def coming(path: Path) -> Path:
    """What stands for a file that is being fetched, in the names of locks."""
    return path.with_name(f"{path.name}.fetch")


def lock_path(path: Path) -> Path:
    """Where the lock of a file lies; that of a part is the lock of who fetches it."""
    if path.suffix == ".part":
        path = coming(path.with_name(path.name.rsplit(".", 2)[0]))
    return path.with_name(f".{path.name}.lock")


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
