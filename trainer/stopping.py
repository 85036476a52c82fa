"""Signals that end a run after its step: Ctrl-C, SIGTERM, and SIGUSR1 as clusters send it."""

import signal
import sys
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


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
        deferred: whether a signal waits for the end of the step; otherwise, and the second time,
            it raises ``Stopped`` where it comes.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.deferred = False

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
        again, self.asked = bool(self.asked), self.asked or number
        if again or not self.deferred:
            raise Stopped(number)
        print(
            f"\n{signal.Signals(number).name}: stopping after this step, with a checkpoint; "
            "once more stops at once",
            file=sys.stderr,
            flush=True,
        )
