"""Signals that end a run after its step: Ctrl-C, SIGTERM, and SIGUSR1 as clusters send it."""

import signal
import sys
import threading
import time
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_ECHO_S = 1.0  # a shell, a launcher and a user may all pass on the same Ctrl-C


class Stopped(BaseException):
    """The run ends because it was asked to; not an Exception, so that nobody mends it.

    Attributes:
        number: of the signal.
        told: whether somebody has said so.
    """

    told = False

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status: 130 after Ctrl-C, as shells have it, else 0."""
        return 130 if self.number == signal.SIGINT else 0


class StopSignals:
    """What was asked for by signals, while it is entered.

    Attributes:
        asked: number of the first signal that came, 0 if none did.
        deferred: whether a signal waits for the end of the step; otherwise it raises ``Stopped``
            where it comes. So does a second Ctrl-C, if it is no echo of the first; clusters repeat
            their signals, which changes nothing.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.deferred = False
        self._asked_s = 0.0

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals over, also from Lightning, which handles some in its own way."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now, again = time.monotonic(), bool(self.asked)
        insists = number == signal.SIGINT and now - self._asked_s >= _ECHO_S
        if not self.deferred or (again and insists):
            self.asked = self.asked or number
            raise Stopped(number)
        if again:
            return
        self.asked, self._asked_s = number, now
        print(
            f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint; "
            "Ctrl-C once more stops at once",
            file=sys.stderr,
            flush=True,
        )
