"""The threads of a pipeline."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from loader.ahead import ReadAhead
from loader.decode import Decoded
from loader.decoded import DecodedKeeper

_JOIN_S = 10.0


class Threads:
    """Those that decode, started when first needed, that fetch ahead, and that keep decoded."""

    def __init__(self, number: int) -> None:
        self.ahead: ReadAhead | None = None
        self.keeper: DecodedKeeper | None = None
        self._number = number
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, task: Any, *args: Any) -> Future[Decoded]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._number, "loader-decode")
        return self._executor.submit(task, *args)

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
