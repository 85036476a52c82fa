"""The threads of a pipeline."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from loader.ahead import ReadAhead
from loader.decoded import DecodedKeeper

_JOIN_S = 10.0
Result = TypeVar("Result")


class Threads:
    """Those that decode, started when first needed, that fetch ahead, and that keep decoded."""

    def __init__(self, most: int) -> None:
        """Plan for at most so many decoding threads.

        Attributes:
            active_limit: how many of them decode at a time.
        """
        self.ahead: ReadAhead | None = None
        self.keeper: DecodedKeeper | None = None
        self._most = self.active_limit = most
        self._active = 0
        self._turn = threading.Condition()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, task: Callable[..., Result], *args: Any) -> Future[Result]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._most, "loader-decode")
        return self._executor.submit(self._run, task, *args)

    def limit(self, number: int) -> None:
        """Let only so many threads decode at a time."""
        with self._turn:
            self.active_limit = number
            self._turn.notify_all()

    def stop(self) -> None:
        """Begin nothing new; what is in hand ends by itself."""
        for helper in (self.ahead, self.keeper):
            if helper is not None:
                helper.stop()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Stop, and wait until all have ended."""
        self.stop()
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        for helper in (self.ahead, self.keeper):
            if helper is not None:
                helper.join(_JOIN_S)

    def _run(self, task: Callable[..., Result], *args: Any) -> Result:
        with self._turn:
            while self._active >= self.active_limit:
                self._turn.wait()
            self._active += 1
        try:
            return task(*args)
        finally:
            with self._turn:
                self._active -= 1
                self._turn.notify()
