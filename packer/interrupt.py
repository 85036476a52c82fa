"""Ctrl-C and SIGTERM end a build cleanly, but never in the midst of what has to be finished."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RAISED = 2  # the first ends what goes on, the second the waiting for it; more would only spoil it


class _Pending:
    """What the handler of this process knows."""

    held = False
    came = 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM stop the main thread as Ctrl-C does, with a KeyboardInterrupt.

    From the third on, signals change nothing: what ends is not broken off. Within such a context
    another one does nothing.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is _interrupt:
        yield
        return
    _Pending.came = 0
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
    return _Pending.came > 0


def insisted() -> bool:
    """Whether a second interrupt came: nothing more will end a wait for what goes on."""
    return _Pending.came >= _RAISED


def _interrupt(number: int, frame: FrameType | None) -> None:
    _Pending.came += 1
    if not _Pending.held and _Pending.came <= _RAISED:
        raise KeyboardInterrupt
