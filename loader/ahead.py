"""Fetches shards into the cache in the order in which the reader will want them."""

import logging
import threading
from collections.abc import Iterator

import numpy as np

from loader.mixture import Mixture
from loader.order import Positions
from loader.patience import PATIENCE
from loader.stop import StoppedError
from loader.store import ShardStore
from shards.errors import DataError

log = logging.getLogger(__name__)

_FETCHERS = 3
_CHUNK = 2048  # positions planned at a time, at most
_POLL_S = 0.1


class ReadAhead:
    """Threads that fetch the shards of an epoch up to a horizon of positions beyond the reader.

    The first shard is fetched alone: the reader waits for it. Where it stalls, others come.
    """

    def __init__(
        self,
        store: ShardStore,
        mixture: Mixture,
        *,
        epoch: int,
        start: int,
        stream: int | None,
        horizon: int,
    ) -> None:
        """Start fetching.

        Args:
            mixture: an instance of its own, for it is walked from these threads.
            start: first position that the reader wants.
            stream: the only stream that this node reads; None is all of them.
            horizon: positions to stay ahead.
        """
        self._store, self._mixture = store, mixture
        self._epoch, self._start, self._stream = epoch, start, stream
        self._horizon, self._reached = horizon, start
        self._condition = threading.Condition()
        self._stopped = False
        self._lock = threading.Lock()
        self._shards = self._plan()
        self._first_is_there = threading.Event()
        self._threads = [
            threading.Thread(target=self._fetch, name=f"loader-ahead-{number}", daemon=True)
            for number in range(_FETCHERS)
        ]
        for thread in self._threads:
            thread.start()

    def reached(self, position: int) -> None:
        """The reader is at ``position`` now."""
        with self._condition:
            self._reached = position
            self._condition.notify_all()

    def stop(self) -> None:
        """Begin no further shard; a fetch under way goes on."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._first_is_there.set()  # or will never be

    def join(self, timeout_s: float) -> None:
        for thread in self._threads:
            thread.join(timeout_s)

    def _fetch(self) -> None:
        while True:
            with self._lock:
                number = next(self._shards, None)
            if number is None:
                return
            try:
                self._store.ensure(number)
            except (StoppedError, InterruptedError):
                return
            except (DataError, OSError) as error:
                # the reader meets the same trouble and raises it, or the shard is back by then
                log.info("fetching ahead: %s", error)
            finally:
                self._first_is_there.set()

    def _plan(self) -> Iterator[int]:
        """Shards in the order of their first sample."""
        seen: set[int] = set()
        chunk = max(1, min(_CHUNK, self._horizon))
        for start in range(self._start, len(self._mixture), chunk):
            if not self._wait_for(start):
                return
            positions: Positions = np.arange(start, min(start + chunk, len(self._mixture)))
            if self._stream is not None:
                positions = positions[positions % self._mixture.streams == self._stream]
            numbers = self._store.locate(*self._mixture.samples(self._epoch, positions))[0]
            for position, number in zip(positions.tolist(), numbers.tolist(), strict=True):
                if number in seen:
                    continue
                seen.add(number)
                if not self._wait_for(position):
                    return
                yield number
                if len(seen) == 1:
                    self._first_is_there.wait(PATIENCE.aside_s)

    def _wait_for(self, position: int) -> bool:
        """Wait until the reader is near a position; False once it does not go on."""
        with self._condition:
            while not self._stopped and position > self._reached + self._horizon:
                self._condition.wait(_POLL_S)
            return not self._stopped
