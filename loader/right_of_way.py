"""The right of way: what a reader waits for comes alone, and other fetches stand aside."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from loader.patience import PATIENCE
from loader.stop import Stop, StoppedError

_POLL_S = 0.1


class RightOfWay:
    """Which shards are awaited, and which are on their way; for any number of threads."""

    def __init__(self, stop: Stop) -> None:
        self._stop, self._lock = stop, threading.Condition()
        self._awaited: Counter[int] = Counter()  # how many readers wait for each
        self._coming: dict[int, float] = {}  # when a byte of each last came

    @contextmanager
    def awaiting(self, number: int) -> Iterator[None]:
        """While a reader waits for a shard."""
        with self._lock:
            self._awaited[number] += 1
        try:
            yield
        finally:
            with self._lock:
                self._awaited -= Counter([number])
                self._lock.notify_all()

    @contextmanager
    def coming(self, number: int) -> Iterator[None]:
        """While a shard is on its way."""
        with self._lock:
            self._coming[number] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._coming.pop(number, None)  # a cache that is deleted has two come at once
                self._lock.notify_all()

    def give_way(self, number: int) -> None:
        """Note that bytes of a shard came, and let it go on once it is in nobody's way.

        Raises:
            StoppedError: if the store is closed meanwhile.
        """
        with self._lock:
            self._coming[number] = time.monotonic()
            while number not in self._awaited and self._is_another_awaited():
                if self._stop.is_set():
                    break
                self._lock.wait(_POLL_S)
        if self._stop.is_set():
            raise StoppedError

    def wake(self) -> None:
        """Have who stands aside look whether the store is closed."""
        with self._lock:
            self._lock.notify_all()

    def _is_another_awaited(self) -> bool:
        """Whether a shard that a reader waits for is on its way, and does not stall."""
        since = time.monotonic() - PATIENCE.aside_s
        return any(self._coming.get(number, 0.0) > since for number in self._awaited)
