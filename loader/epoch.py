"""One pass over a dataset: batches under way in threads, delivered in order."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from loader.ahead import ReadAhead
from loader.batch import Batch
from loader.decode import Decoded
from loader.device import Mover, Sent
from loader.skipped import SkipLog, Skipped
from loader.stats import Stats
from loader.steps import Places, Steps
from loader.threads import Threads


class Delivered(Protocol):
    """What is told of each batch before it goes out."""

    def __call__(self, position: int | None, *, seconds: float, waited_s: float) -> None:
        """Take note.

        Args:
            position: of the epoch, behind the batch; None is its end.
            seconds: since the batch before.
            waited_s: how much of that the consumer waited.
        """


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch on its way to the device: how many samples it holds, and which were skipped."""

    sent: Sent
    samples: int
    skipped: list[Skipped]


class Epoch(Iterator[Batch]):
    """One pass, or the rest of one: ``prefetch`` batches under way, delivered in order."""

    def __init__(
        self,
        steps: Steps,
        decode: Callable[[Places], Decoded],
        mover: Mover,
        threads: Threads,
        *,
        prefetch: int,
        ahead: ReadAhead | None,
        skip_log: SkipLog,
        stats: Stats,
        require_usable: Callable[[], None],
        delivered: Delivered,
    ) -> None:
        """Decode nothing yet.

        Args:
            decode: called in any of the threads; of none, in the consumer's.
            ahead: fetches shards, and is told how far the steps are.
            require_usable: raises RuntimeError where no batch can be made any more.
        """
        self._steps, self._decode, self._mover = steps, decode, mover
        self._threads, self._prefetch, self._ahead = threads, prefetch, ahead
        self._skip_log, self._stats = skip_log, stats
        self._require_usable, self._tell = require_usable, delivered
        self._pending: deque[tuple[Future[_Ready], int]] = deque()
        self._delivered_at = 0.0
        self._ended = self._closed = False

    @property
    def ended(self) -> bool:
        """Whether it gives no further batch."""
        return self._ended or self._closed

    def __next__(self) -> Batch:
        self._require_usable()
        if self._ended or not (self._closed or self._pending or self._steps.left):
            self._ended = True
            raise StopIteration
        if self._closed:
            raise RuntimeError("this iterator was ended by a newer one, or its pipeline closed")
        began = time.perf_counter()
        try:
            ready, position = self._take()
            self._stats.count("skipped", len(ready.skipped))
            self._skip_log.add(ready.skipped)
            batch = self._mover.receive(ready.sent)
        except BaseException:
            self.close()
            self._ended = True
            raise
        now = time.perf_counter()
        self._stats.delivered(ready.samples, now - began)
        last = not self._pending and not self._steps.left
        since = self._delivered_at or began
        self._tell(None if last else position, seconds=now - since, waited_s=now - began)
        self._delivered_at = now
        return batch

    def close(self) -> None:
        """Forget what is under way. A decoding thread ends the batch in its hands."""
        self._closed = True
        for future, _ in self._pending:
            future.cancel()
        self._pending.clear()
        if self._ahead is not None:
            self._ahead.stop()

    def _take(self) -> tuple[_Ready, int]:
        """The next batch, and the position after it; others are on their way then."""
        threads, steps = self._threads, self._steps
        if not threads.active_limit:
            return self._prepare(self._next_places()), steps.position
        most = max(self._prefetch, threads.active_limit)
        while steps.left and len(self._pending) <= most:
            future = threads.submit(self._prepare, self._next_places())
            self._pending.append((future, steps.position))
        future, position = self._pending.popleft()
        return future.result(), position

    def _next_places(self) -> Places:
        places = next(self._steps)
        if self._ahead is not None:
            self._ahead.reached(self._steps.position)
        return places

    def _prepare(self, places: Places) -> _Ready:
        """Decode a batch and send it on its way to the device."""
        decoded = self._decode(places)
        return _Ready(self._mover.send(decoded.batch), decoded.samples, decoded.skipped)
