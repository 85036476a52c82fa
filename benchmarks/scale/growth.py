"""What a start, a resume and a plan cost, by samples and by shards, each in a fresh process."""

import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import synthetic
from memory import ANON, held_bytes

from loader import make_pipeline
from loader.pipeline import Pipeline
from loader.steps import Steps
from loader.world import World
from shards.manifest import NAME

SHARD_ROWS = 1000
SAMPLES = tuple(10**power for power in range(3, 9))
QUICK_SAMPLES = (10**3, 10**7)
SAME_SAMPLES, SHARDS = 10**6, (10, 10_000, 100_000)
PLANNED_STEPS = 512
OPTIONS: dict[str, Any] = {"batch_size": 16, "max_notes": 64, "num_workers": 1}
RESUMED = 0.9  # of an epoch


def measure(work: Path, *, rounds: int, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Rows of two tables: samples that grow, and a million samples in more and more shards."""
    samples = QUICK_SAMPLES if quick else SAMPLES
    by_samples = [(n // SHARD_ROWS, SHARD_ROWS) for n in samples]
    by_shards = [] if quick else [(n, SAME_SAMPLES // n) for n in SHARDS]
    return {
        "by samples": [_row(work, *shape, rounds) for shape in by_samples],
        "by shards": [_row(work, *shape, rounds) for shape in by_shards],
    }


def _row(work: Path, shards: int, rows: int, rounds: int) -> dict[str, Any]:
    folder = work / f"{shards}-shards-of-{rows}"
    if not (folder / NAME).exists():
        synthetic.write_linked(folder, midi=_midi(work), shards=shards, rows=rows)
    results = []
    for _ in range(rounds + 1):  # the first one fills the cache with the parsed manifest
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results.append(pool.apply(_in_a_process, (work, folder)))
    row: dict[str, Any] = {
        "samples": shards * rows,
        "shards": shards,
        "manifest_MB": round((folder / NAME).stat().st_size / 1e6, 3),
    }
    for name in results[0]:
        found = [result[name] for result in results[1:]]
        row[name] = {"median": statistics.median(found), "all": found}
    print(f"{row['samples']:>11,} samples in {shards:>7,} shards:", _line(row), flush=True)
    return row


def _line(row: dict[str, Any]) -> str:
    parts = {name: found["median"] for name, found in row.items() if isinstance(found, dict)}
    return ", ".join(f"{name} {median:.4g}" for name, median in parts.items())


def _in_a_process(work: Path, folder: Path) -> dict[str, float]:
    """Everything once; a small dataset first, so that imports and first threads are not counted."""
    small = work / "warm-up"
    if not (small / NAME).exists():
        synthetic.write_linked(small, midi=_midi(work), shards=2, rows=64)
    cache, empty = work / "cache", work / "empty-cache"
    with _timed(small, cache_dir=cache) as (pipe, _, _):
        next(iter(pipe))
    shutil.rmtree(empty, ignore_errors=True)
    found: dict[str, float] = {}
    with _timed(folder, cache_dir=cache) as (pipe, seconds, megabytes):
        next(iter(pipe))
        found["start_s"], found["start_MB"] = seconds(), megabytes()
        state = pipe.state_dict()
        found["plan_us"] = _planning(pipe)
    with _timed(folder, cache_dir=cache) as (pipe, seconds, _):
        pipe.load_state_dict(state | {"position": int(RESUMED * len(pipe._sampler.mixture))})
        next(iter(pipe))
        found["resume_s"] = seconds()
    with _timed(folder, cache_dir=cache, shuffle="full") as (pipe, seconds, _):
        next(iter(pipe))
        found["full_s"] = seconds()
        found["full_plan_us"] = _planning(pipe)
    with _timed(folder, cache_dir=empty) as (pipe, seconds, megabytes):
        len(pipe)
        found["parse_s"], found["parse_MB"] = seconds(), megabytes()
    found["json_s"] = _time(lambda: json.loads((folder / NAME).read_bytes()))
    found["state_bytes"] = len(json.dumps(state))
    return found


@contextmanager
def _timed(
    folder: Path, **options: Any
) -> Iterator[tuple[Pipeline, Callable[[], float], Callable[[], float]]]:
    """A pipeline, the seconds since it was begun, and the megabytes that came since."""
    before, began = held_bytes(ANON), time.perf_counter()
    with make_pipeline(folder, **OPTIONS, **options) as pipe:
        yield (
            pipe,
            lambda: time.perf_counter() - began,
            lambda: (held_bytes(ANON) - before) / 1e6,
        )


def _planning(pipe: Pipeline) -> float:
    """Microseconds a batch that planning takes, from the middle of an epoch on."""
    mixture, size = pipe._sampler.mixture, OPTIONS["batch_size"]
    middle = len(mixture) // 2 // size * size
    count = min(PLANNED_STEPS, (len(mixture) - middle) // size)
    steps = Steps(
        pipe._store,
        mixture,
        World(),
        epoch=1,
        position=middle,
        batch_size=size,
        steps=count,
    )
    return _time(lambda: [None for _ in steps]) / count * 1e6


def _time(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _midi(work: Path) -> bytes:
    return synthetic.midi_bytes(work / "piece.mid")
