"""The threads of a pipeline."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from loader.ahead import ReadAhead
from loader.decode import Decoded

_JOIN_S = 10.0


class Threads:
    """Those that decode, started when first needed, and those that fetch ahead."""

    def __init__(self, number: int) -> None:
        self.ahead: ReadAhead | None = None
        self._number = number
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, task: Any, *args: Any) -> Future[Decoded]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._number, "loader-decode")
        return self._executor.submit(task, *args)

    def stop(self) -> None:
        """Begin nothing new; what is in hand ends by itself."""
        if self.ahead is not None:
            self.ahead.stop()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Stop, and wait until all have ended."""
        self.stop()
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        if self.ahead is not None:
            self.ahead.join(_JOIN_S)
