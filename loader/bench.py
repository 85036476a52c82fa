"""How many samples a second a dataset gives, by number of decoding threads, and what limits it."""

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from loader.build import make_pipeline

_AT_LEAST_S = 2.0


@dataclass(frozen=True, slots=True)
class Rate:
    """One setting: its rate, and the stage that takes most of its time."""

    workers: int
    samples_per_s: float
    limit: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    url: str, *, batch_size: int = 16, storage_options: dict[str, Any] | None = None
) -> list[Rate]:
    """Stream a dataset with 0, 1, 2, 4, ... threads, up to twice the cores, from a warm cache.

    Raises:
        DataError: if the dataset cannot be read.
    """
    cores = len(os.sched_getaffinity(0))
    counts = [0, *(2**power for power in range(8) if 2**power <= 2 * cores)]
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "storage_options": storage_options,
        "drop_last": False,
    }
    with make_pipeline(url, **options) as pipe:
        for _ in pipe:  # fetches what the cache lacks
            pass
    return [_measure(url, workers, options) for workers in counts]


def _measure(url: str, workers: int, options: dict[str, Any]) -> Rate:
    with make_pipeline(url, num_workers=workers, **options) as pipe:
        began = time.perf_counter()
        while time.perf_counter() - began < _AT_LEAST_S:
            for _ in pipe:
                pass
        seconds, stats = time.perf_counter() - began, pipe.stats()
    return Rate(workers, stats["samples"] / seconds, _limit(stats["time_s"]))


def _limit(times: dict[str, float]) -> str:
    """The stages by their share of the threads' time."""
    total = sum(times.values()) or 1.0
    shares = sorted(((spent / total, stage) for stage, spent in times.items()), reverse=True)
    return ", ".join(f"{stage} {share:.0%}" for share, stage in shares if share >= 0.05)
