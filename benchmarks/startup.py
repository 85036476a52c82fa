"""How long a pipeline takes to start, by the size of the dataset, and the memory that it takes.

    python benchmarks/startup.py --out build/startup.json

Every figure is measured in a process of its own, imports apart; medians over the rounds. The
100,000 shards are a manifest, of which the first shard is there; the other dataset is whole.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import synthetic
from machine import describe
from memory import ANON, held_bytes

from loader import make_pipeline
from loader.stage import stage
from loader.steps import find_places
from shards.manifest import NAME

SHARDS, SHARD_SAMPLES = 100_000, 1000  # of the large manifest
WHOLE_SHARDS, WHOLE_SAMPLES = 1000, 100_000
DIMENSIONS = 4, 19
SHUFFLES: dict[str, int | str] = {"stored order": 0, "windows": 1000, "full": "full"}
OPTIONS = {"batch_size": 16, "max_notes": 64}


def main() -> None:
    args = _arguments()
    if args.measure:
        print(json.dumps(_figures(args.work)[args.measure]()))
        return
    _prepare(args.work)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _figures(args.work)}
    for _ in range(args.rounds):
        for name, results in found.items():
            results.append(_in_a_process(name, args.work))
    report = {
        "machine": describe("fsspec", "numpy", "symusic", "torch"),
        "command": f"python benchmarks/startup.py --rounds {args.rounds}",
        "figures": {name: _summary(results) for name, results in found.items()},
    }
    figures = report["figures"]
    start, late = figures["first batch at 0%"], figures["first batch at 90%"]
    report["ratios"] = {"90% / 0%": round(late["s"]["median"] / start["s"]["median"], 2)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    for name, units in figures.items():
        print(name, *(f"{figure['median']:.3f} {unit}" for unit, figure in units.items()), sep=", ")
    print(report["ratios"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/startup"))
    parser.add_argument("--out", type=Path, default=Path("build/startup.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", help="one figure, in this process")
    return parser.parse_args()


def _figures(work: Path) -> dict[str, Callable[[], dict[str, float]]]:
    """What is measured: functions that start a pipeline and tell seconds and megabytes."""
    large, whole, cache = work / "large", work / "whole", work / "cache"
    found: dict[str, Callable[[], dict[str, float]]] = {
        "100,000 shards, first parse": lambda: _first_parse(large, work / "no-cache"),
    }
    for name, shuffle in SHUFFLES.items():
        found[f"100,000 shards planned, {name}"] = lambda shuffle=shuffle: _measure(
            _plan, large, cache_dir=cache, shuffle=shuffle
        )
    found["100,000 shards, first batch"] = lambda: _measure(
        _first_batch, large, cache_dir=cache, shuffle=0
    )
    found["1,000 cached shards, first batch"] = lambda: _measure(
        _first_batch, whole, cache_dir=cache, cache_mount=True
    )
    for count in DIMENSIONS:
        found[f"100,000 keys of {count} labels"] = lambda count=count: _measure(
            _plan, whole, cache_dir=cache, labels=work / f"labels-{count}.jsonl"
        )
    for share in (0, 90):
        found[f"first batch at {share}%"] = lambda share=share: _measure(
            _first_batch, whole, cache_dir=cache, share=share / 100
        )
    return found


def _measure(
    start: Callable[..., None], url: Path, *, share: float = 0, **options: Any
) -> dict[str, float]:
    """Seconds and RssAnon that making a pipeline and starting it take."""
    before, began = held_bytes(ANON), time.perf_counter()
    with make_pipeline(url, **OPTIONS, **options) as pipe:
        if share:
            state = pipe.state_dict()
            pipe.load_state_dict(state | {"position": round(share * WHOLE_SAMPLES)})
        start(pipe)
        return {"s": time.perf_counter() - began, "MB": (held_bytes(ANON) - before) / 1e6}


def _first_parse(url: Path, cache: Path) -> dict[str, float]:
    shutil.rmtree(cache, ignore_errors=True)
    return _measure(_plan, url, cache_dir=cache)


def _plan(pipe: Any) -> None:
    """The places of the first batch, and no more: the shards need not be there."""
    find_places(pipe._store, pipe._sampler.mixture, 0, np.arange(OPTIONS["batch_size"]))


def _first_batch(pipe: Any) -> None:
    next(iter(pipe))


def _in_a_process(name: str, work: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--work", str(work), "--measure", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _summary(results: list[dict[str, float]]) -> dict[str, Any]:
    return {
        unit: {
            "median": round(statistics.median(result[unit] for result in results), 3),
            "all": [round(result[unit], 3) for result in results],
        }
        for unit in results[0]
    }


def _prepare(work: Path) -> None:
    """Make the datasets, unless they are there, and warm the cache."""
    if not (work / "whole" / NAME).exists():
        midi = synthetic.midi_bytes(work / "piece.mid")
        rows = {"samples": SHARD_SAMPLES, "shards": 1, "rows": SHARD_SAMPLES}
        synthetic.write_listed(work / "large", midi, listed=SHARDS, **rows)
        for count in DIMENSIONS:
            _write_labels(work / f"labels-{count}.jsonl", count)
        synthetic.write_listed(work / "whole", midi, samples=WHOLE_SAMPLES, shards=WHOLE_SHARDS)
    stage(str(work / "whole"), cache_dir=work / "cache", progress=False)
    for name in _figures(work):
        _in_a_process(name, work)


def _write_labels(path: Path, dimensions: int) -> None:
    values = np.random.default_rng(0).random((WHOLE_SAMPLES, dimensions))
    with path.open("w") as file:
        for number, row in enumerate(values.tolist()):
            labels = {f"dimension_{place}": value for place, value in enumerate(row)}
            file.write(json.dumps({"key": synthetic.key(number), "labels": labels}) + "\n")


if __name__ == "__main__":
    main()
