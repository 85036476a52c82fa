"""Ctrl-C and SIGTERM end a build cleanly, but never in the midst of what has to be finished."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Pending:
    """What the handler of this process knows."""

    held = False
    came = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM stop the main thread as Ctrl-C does, with a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Pending.came = False
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Put interrupts off to the end.

    libsndfile calls back into Python, and an exception raised there is lost: the interrupt would
    be ignored, and the sound be damaged.
    """
    if _Pending.held or threading.current_thread() is not threading.main_thread():
        yield
        return
    _Pending.held = True
    try:
        yield
    finally:
        _Pending.held = False
    if _Pending.came:
        raise KeyboardInterrupt


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Put Ctrl-C off. Threads and processes started meanwhile never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interrupted() -> bool:
    """Whether an interrupt came, for threads to end what they are at."""
    return _Pending.came


def _interrupt(number: int, frame: FrameType | None) -> None:
    _Pending.came = True
    if not _Pending.held:
        raise KeyboardInterrupt
