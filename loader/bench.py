"""How many samples a second a dataset gives, by cache and decoding threads, and what limits it."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from tqdm import tqdm

from loader.build import make_pipeline
from loader.cache import default_folder
from loader.decoded import decoded_bytes, folder_suffix
from loader.machine import free_memory, usable_cores
from loader.pipeline import Pipeline
from loader.source import Source, open_source

Cache = Literal["raw", "decoded"]
Workers = int | Literal["auto"]
Bound = Literal["consumer", "decode", "disk", "link"]

CACHES: tuple[Cache, ...] = ("raw", "decoded")

_PREFETCH = 4
_READY = 0.1  # a consumer that waits for less of its time is the slower part
_BUSY = 0.8  # of the cores that decoding may use: more threads bring nothing
_ALIKE = 0.97  # rates closer than that differ by noise
_SHOWN = 0.05
_POLL_S = 0.2
_QUIET_S = 2.0  # after which no further decoded shard is coming
_STUCK_S = 20.0  # one that is coming does not grow, or was left behind
_COUNTED = ("samples", "wait_s", "fetched_bytes")


@dataclass(frozen=True, slots=True)
class Task:
    """What is measured.

    Attributes:
        seconds: for each setting.
        caches: kinds of cache; None is raw, and decoded where it fits into half of free memory.
        cache_dir: None is the user's; what is fetched and decoded stays there.
        subset: only the first N samples, as in ``make_pipeline``.
        step_ms: of a training step that is put on after each batch.
    """

    url: str
    seconds: float = 2.0
    batch_size: int = 16
    caches: tuple[Cache, ...] | None = None
    cache_dir: Path | None = None
    subset: int | None = None
    sample_rate: int = 24000
    clip_seconds: float = 10.0
    step_ms: float = 0.0
    storage_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be more than 0 and finite, got {self.seconds}")
        if not 0 <= self.step_ms < math.inf:
            raise ValueError(f"step_ms must be at least 0 and finite, got {self.step_ms}")

    def open(self, cache: Cache, workers: Workers) -> Pipeline:
        """A pipeline over the dataset; sets smaller than a batch are padded."""
        return make_pipeline(
            self.url,
            batch_size=self.batch_size,
            drop_last=False,
            num_workers=workers,
            prefetch=_PREFETCH,
            cache=cache,
            cache_dir=self.cache_dir,
            subset=self.subset,
            sample_rate=self.sample_rate,
            clip_seconds=self.clip_seconds,
            storage_options=self.storage_options,
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """What one setting gave.

    Attributes:
        waiting: share of its time in which the consumer waited for batches.
        busy_cores: processor time by the clock's; 1.5 is one core and half of another.
        shares: of the threads' time, by stage.
        bound: what limits the rate.
    """

    cache: Cache
    workers: Workers
    samples_per_s: float
    waiting: float
    busy_cores: float
    shares: dict[str, float]
    bound: Bound
    fetched_bytes_per_s: float = 0.0

    @property
    def limit(self) -> str:
        """What limits the rate, and the stages by their share, the greatest first."""
        shares = sorted(self.shares.items(), key=lambda item: -item[1])
        stages = ", ".join(f"{stage} {share:.0%}" for stage, share in shares if share >= _SHOWN)
        return f"{self.bound}-bound: {stages}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """What a dataset gave on this machine.

    Attributes:
        cores: that this process may use.
        first_pass: the pass that fetched shards into the cache; None where nothing was fetched.
        rates: of warm caches, in the order measured.
    """

    task: Task
    cores: int
    first_pass: Rate | None
    rates: tuple[Rate, ...]

    @property
    def best(self) -> Rate:
        """The fastest; of those as fast but for noise, the one with the fewest threads.

        Without threads a training step would wait for each batch, which only a measurement with
        a step shows: else it is not recommended.
        """
        threaded = [rate for rate in self.rates if rate.workers != 0 or self.task.step_ms]
        fastest = max(rate.samples_per_s for rate in threaded)
        alike = [rate for rate in threaded if rate.samples_per_s >= _ALIKE * fastest]
        return min(alike, key=lambda rate: (_count(rate.workers, self.cores), rate.cache != "raw"))

    def to_json(self) -> dict[str, Any]:
        task = self.task
        return {
            "url": task.url,
            "batch_size": task.batch_size,
            "sample_rate": task.sample_rate,
            "clip_seconds": task.clip_seconds,
            "step_ms": task.step_ms,
            "cores": self.cores,
            "first_pass": self.first_pass and self.first_pass.to_json(),
            "rates": [rate.to_json() for rate in self.rates],
            "best": self.best.to_json(),
        }


def bench(task: Task) -> Report:
    """Fetch what the cache lacks, then measure every setting from warm caches.

    Raises:
        ValueError: if an option is out of range, or nothing of what was asked for can be measured.
        DataError: if the dataset cannot be read.
    """
    cores, source = usable_cores(), open_source(task.url, task.storage_options)
    size = decoded_bytes(source, task.sample_rate)
    caches = task.caches or (CACHES if size <= free_memory() / 2 else CACHES[:1])
    copies = Copies.of(task, source)
    first_pass: Rate | None = None
    rates: list[Rate] = []
    for cache in caches:
        with task.open(cache, "auto") as pipe:
            first = _fill(task, pipe, cache, cores)
            first_pass = first_pass or first
            if cache == "decoded" and not copies.wait():
                continue
        rates += _sweep(task, cache, cores)
    if not rates:
        raise ValueError(f"{task.url}: its shards are not kept decoded here: pass --caches raw")
    return Report(task, cores, first_pass, tuple(rates))


def worker_counts(cores: int) -> tuple[Workers, ...]:
    """0, 1, 2, 4, ... up to twice the cores, and what the loader itself would take."""
    return (0, *(2**power for power in range((2 * cores).bit_length())), "auto")


def find_bound(
    waiting: float, busy: float, shares: dict[str, float], *, mapped: bool = False
) -> Bound:
    """What limits a rate.

    Args:
        waiting: share of its time in which the consumer waited.
        busy: share of the cores' time that was used, of those that decoding could use.
        shares: of the threads' time, by stage.
        mapped: decoded audio is read from the disk in the stage that converts it.
    """
    if waiting < _READY:
        return "consumer"
    longest = max(shares, key=lambda stage: shares[stage])
    if busy >= _BUSY or longest not in ("fetch", "read", *(["audio"] if mapped else [])):
        return "decode"
    return "link" if longest == "fetch" else "disk"


def _sweep(task: Task, cache: Cache, cores: int) -> Iterator[Rate]:
    counts = worker_counts(cores)
    with _bar(len(counts), "setting", f"measuring {cache}") as bar:
        for workers in counts:
            yield _measure(task, cache, workers, cores)
            bar.update()


def _measure(task: Task, cache: Cache, workers: Workers, cores: int) -> Rate:
    """One setting, from when its threads are under way."""
    with task.open(cache, workers) as pipe:
        batches = _endless(pipe)
        for _ in range(_PREFETCH + _count(workers, cores)):
            next(batches)
        watch = _Watch(pipe)
        for _ in batches:
            time.sleep(task.step_ms / 1e3)
            if watch.seconds >= task.seconds:
                break
        return watch.rate(cache, workers, cores)


def _fill(task: Task, pipe: Pipeline, cache: Cache, cores: int) -> Rate | None:
    """One pass, which fetches what the cache lacks; None if that is nothing.

    Where shards are read in place and only warmed up, a part of it is enough.
    """
    watch = _Watch(pipe)
    with _bar(len(pipe), "batch", f"first pass, {cache}") as bar:
        for _ in pipe:
            bar.update()
            stats = pipe.stats()
            in_place = not stats["fetched_bytes"] and not stats["cache_hits"]
            if cache == "raw" and in_place and watch.seconds >= task.seconds:
                break
    rate = watch.rate(cache, "auto", cores)
    return rate if rate.fetched_bytes_per_s else None


def _endless(pipe: Pipeline) -> Iterator[object]:
    while True:
        yield from pipe


class _Watch:
    """Measures a pipeline from now on."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe, self._before = pipe, pipe.stats()
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._clock

    def rate(self, cache: Cache, workers: Workers, cores: int) -> Rate:
        """What was reached until now."""
        seconds, after = self.seconds, self._pipe.stats()
        gained = {name: after[name] - self._before[name] for name in _COUNTED}
        spent = {
            stage: after["time_s"][stage] - before
            for stage, before in self._before["time_s"].items()
        }
        total = sum(spent.values()) or 1.0
        waiting, busy = gained["wait_s"] / seconds, (time.process_time() - self._cpu) / seconds
        shares = {stage: seconds / total for stage, seconds in spent.items()}
        usable = min(max(1, _count(workers, cores)), cores)
        return Rate(
            cache=cache,
            workers=workers,
            samples_per_s=gained["samples"] / seconds,
            waiting=waiting,
            busy_cores=busy,
            shares=shares,
            bound=find_bound(waiting, busy / usable, shares, mapped=cache == "decoded"),
            fetched_bytes_per_s=gained["fetched_bytes"] / seconds,
        )


@dataclass(frozen=True, slots=True)
class Copies:
    """The decoded shards of a dataset: folders of the cache, in which they come one by one."""

    folders: tuple[Path, ...]
    total: int

    @classmethod
    def of(cls, task: Task, source: Source) -> Self:
        cache, suffix = task.cache_dir or default_folder(), folder_suffix(task.sample_rate)
        folders = (cache / f"{folder.name}{suffix}" for folder in source.shards.used_folders())
        return cls(tuple(folders), len(source.shards))

    def wait(self) -> bool:
        """Wait until no more are coming; whether there are any.

        Of a subset, or where some cannot be decoded, there are never all: quiet is the end then.
        """
        seen, since = None, time.perf_counter()
        with _bar(self.total, "shard", "decoding") as bar:
            while len(now := self._find(".tar")) < self.total:
                coming = self._find(".part")
                if (now, coming) != seen:
                    seen, since = (now, coming), time.perf_counter()
                    bar.update(len(now) - bar.n)
                elif time.perf_counter() - since > (_STUCK_S if coming else _QUIET_S):
                    break
                time.sleep(_POLL_S)
        return bool(self._find(".tar"))

    def _find(self, suffix: str) -> set[Path]:
        return {path for folder in self.folders for path in folder.glob(f"*{suffix}")}


def _count(workers: Workers, cores: int) -> int:
    return cores if workers == "auto" else workers


def _bar(total: int, unit: str, text: str) -> Any:
    """A bar on a terminal's stderr, gone once it is full."""
    return tqdm(total=total, unit=unit, desc=text, leave=False, disable=None)
