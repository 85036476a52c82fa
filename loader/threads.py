"""The threads of a pipeline."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from loader.ahead import ReadAhead
from loader.decoded import DecodedKeeper
from loader.machine import usable_cores
from loader.settle import Settling
from loader.world import ranks_here

_JOIN_S = 10.0
Result = TypeVar("Result")


class Threads:
    """Those that decode, started when first needed, that fetch ahead, and that keep decoded.

    They are daemons: a program that ends without closing its pipeline does not wait for batches
    that nobody will see.
    """

    def __init__(self, number: int | Literal["auto"]) -> None:
        """Plan for so many decoding threads; "auto" settles on a number while they work.

        Attributes:
            most: there will never be more.
            active_limit: how many of them decode at a time.
        """
        auto = number == "auto"
        self._settling = Settling(max(1, usable_cores() // ranks_here())) if auto else None
        self._fetched_bytes = 0
        self.ahead: ReadAhead | None = None
        self.keeper: DecodedKeeper | None = None
        self.most = self._settling.most if self._settling else int(number)
        self.active_limit = self._settling.number if self._settling else self.most
        self._active, self._stopped = 0, False
        self._tasks: deque[tuple[Future[Any], Callable[[], None]]] = deque()
        self._turn = threading.Condition()
        self._workers: list[threading.Thread] = []

    @property
    def keeping(self) -> bool:
        """Whether a shard is being kept decoded, or is to be."""
        return self.keeper is not None and self.keeper.busy

    def submit(self, task: Callable[..., Result], *args: Any) -> Future[Result]:
        """Have a task run; tasks begin in the order in which they come.

        Raises:
            RuntimeError: if the threads were stopped.
        """
        future: Future[Result] = Future()
        with self._turn:
            if self._stopped:
                raise RuntimeError("the pipeline is closed: make a new one")
            self._tasks.append((future, lambda: _run(future, task, args)))
            if len(self._workers) < self.most:
                name = f"loader-decode-{len(self._workers)}"
                self._workers.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._workers[-1].start()
            self._turn.notify_all()
        return future

    def limit(self, number: int) -> None:
        """Let only so many threads decode at a time."""
        with self._turn:
            self.active_limit = number
            self._turn.notify_all()

    def observe(self, *, seconds: float, waited_s: float, fetched_bytes: int) -> None:
        """Let a batch that was delivered have its say in how many decode, if they are to settle.

        Args:
            seconds: since the batch before.
            waited_s: how much of that the consumer waited.
            fetched_bytes: that came over the link so far.
        """
        if self._settling is None or self._settling.settled:
            return
        disturbed = self.keeping or fetched_bytes != self._fetched_bytes
        self._settling.observe(seconds=seconds, waited_s=waited_s, disturbed=disturbed)
        self._fetched_bytes = fetched_bytes
        self.limit(self._settling.number)

    def stop(self) -> None:
        """Begin nothing new; what is in hand ends by itself."""
        for helper in (self.ahead, self.keeper):
            if helper is not None:
                helper.stop()
        with self._turn:
            self._stopped = True
            for future, _ in self._tasks:  # somebody may wait for it
                future.cancel()
            self._tasks.clear()
            self._turn.notify_all()

    def join(self, timeout_s: float = _JOIN_S) -> None:
        """Stop, and wait until all have ended."""
        self.stop()
        for thread in self._workers:
            thread.join(timeout_s)
        for helper in (self.ahead, self.keeper):
            if helper is not None:
                helper.join(timeout_s)

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            finally:
                del task  # holds no batch while it waits
                with self._turn:
                    self._active -= 1
                    self._turn.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """The next task, when it is this thread's turn; None when there is no further one."""
        with self._turn:
            while not self._stopped and (not self._tasks or self._active >= self.active_limit):
                self._turn.wait()
            if self._stopped:
                return None
            self._active += 1
            return self._tasks.popleft()[1]


def _run(future: Future[Result], task: Callable[..., Result], args: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(task(*args))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer gets it
        future.set_exception(error)
