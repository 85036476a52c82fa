"""One thing after another in a thread of its own, while the caller prepares the next."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

Result = TypeVar("Result")


class StoppedError(Exception):
    """The build ends; what is not begun is not done."""


class Stop:
    """Tells threads that the build ends."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def tell(self) -> None:
        self._told.set()

    def pause(self, seconds: float = 0) -> None:
        """Wait; raise StoppedError as soon as the build ends."""
        if self._told.wait(seconds):
            raise StoppedError


class Carrier(Generic[Result]):
    """Does tasks in order, in a thread, one of them at a time; leaving the context waits for it.

    So no more than one is prepared ahead.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop, self._tasks = stop, list[Future[Result]]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="carrier")

    def submit(self, task: Callable[[], Result]) -> None:
        """Hand over a task, once the one before is done; raise what that raised."""
        self.wait()
        self._tasks.append(self._thread.submit(task))

    def wait(self) -> None:
        """Wait for the last task; raise what it raised."""
        if self._tasks:
            self._tasks[-1].result()

    def check(self) -> None:
        """Raise what a task raised, if one has."""
        if self._tasks and self._tasks[-1].done():
            self._tasks[-1].result()

    def results(self) -> list[Result]:
        """What the tasks returned, in order, when all are done."""
        return [task.result() for task in self._tasks]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if kind is not None:
            self._stop.tell()
        self._thread.shutdown()
