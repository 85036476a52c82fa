"""Counters of a pipeline, kept by many threads."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STAGES = ("fetch", "read", "audio", "midi", "batch")
COUNTERS = (
    "samples",
    "batches",
    "fetched_bytes",
    "cache_hits",
    "skipped",
    "notes_left_out",
)


class Stats:
    """What a pipeline has done so far, and where its time went.

    Times of stages are summed over threads, so together they may exceed the clock's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._known: set[str] = set()  # cached files that were fetched, or opened before
        self._first = self._last = 0.0

    def count(self, name: str, amount: int) -> None:
        if amount:
            with self._lock:
                self._counts[name] += amount

    @property
    def fetched_bytes(self) -> int:
        """Bytes that came over the link so far."""
        return self._counts["fetched_bytes"]

    def fetched(self, name: str) -> None:
        """A file was put into the cache: opening it will be no hit."""
        with self._lock:
            self._known.add(name)

    def opened(self, name: str) -> None:
        """A cached file was opened to be read: a hit, once, if it was there before."""
        with self._lock:
            self._counts["cache_hits"] += name not in self._known
            self._known.add(name)

    def add_seconds(self, seconds: dict[str, float]) -> None:
        """Add to the time of stages."""
        with self._lock:
            for stage, amount in seconds.items():
                self._seconds[stage] += amount  # type: ignore[assignment]

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds({stage: time.perf_counter() - start})

    def delivered(self, samples: int, wait_s: float) -> None:
        """A batch went out after the consumer waited for it."""
        now = time.perf_counter()
        with self._lock:
            self._first = self._first or now - wait_s
            self._last = now
            self._counts["samples"] += samples
            self._counts["batches"] += 1
            self._seconds["wait"] += wait_s  # type: ignore[assignment]

    def snapshot(self) -> dict[str, Any]:
        """The contract's dict: counts, rate, waiting time and ``time_s`` by stage."""
        with self._lock:
            counts, seconds = dict(self._counts), dict(self._seconds)
            elapsed = self._last - self._first
        samples = counts.get("samples", 0)
        return {name: counts.get(name, 0) for name in COUNTERS} | {
            "samples_per_s": samples / elapsed if elapsed > 0 else 0.0,
            "wait_s": float(seconds.get("wait", 0.0)),
            "time_s": {stage: float(seconds.get(stage, 0.0)) for stage in STAGES},
        }
