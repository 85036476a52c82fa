"""Samples a second by decoding threads: measured where there are cores, else a model.

The model is a closed queue: each thread decodes without Python's lock (d seconds a sample) and then
needs it (g seconds), one thread at a time. Mean value analysis (Reiser and Lavenberg, 1980) gives
the rate of n threads on n cores. d is measured as a bare decoding loop, g as what a pipeline takes
beyond it, both in processor seconds, and all of g is held to be under the lock: so the model is
not too kind there. What it leaves out is that cores share memory, caches and clock.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from clips import RATE, decoded_cache, decoded_tars, make_dataset
from streaming import BATCH, FRAMES

from loader import make_pipeline
from loader.audio import decode_window
from loader.fast_decoders import copy_samples
from loader.machine import usable_cores
from loader.pipeline import Pipeline
from shards.npy import npy_view
from shards.reader import ShardReader

THREADS = (1, 2, 4, 8, 16)
CLIPS, QUICK_CLIPS = 640, 192
PASSES = 8  # over decoded shards: one takes a fraction of a second


def measure(work: Path, *, rounds: int, quick: bool) -> dict[str, Any]:
    """For FLAC and decoded clips: d and g, and rates by threads, measured and of the model."""
    dataset = make_dataset(work, QUICK_CLIPS if quick else CLIPS)
    cached = decoded_cache(dataset)
    kinds: dict[str, tuple[Path, dict[str, Any], int]] = {
        "FLAC": (dataset, {}, 1),
        "decoded": (decoded_tars(dataset), cached, PASSES),
    }
    return {
        kind: _kind(dataset, tars, options, passes, rounds)
        for kind, (tars, options, passes) in kinds.items()
    }


def rate(threads: int, free_s: float, held_s: float) -> float:
    """Samples a second of some threads on as many cores, by the model."""
    waiting, found = 0.0, 0.0
    for number in range(1, threads + 1):
        at_lock_s = held_s * (1 + waiting)
        found = number / (free_s + at_lock_s)
        waiting = found * at_lock_s
    return found


def _kind(
    dataset: Path, tars: Path, options: dict[str, Any], passes: int, rounds: int
) -> dict[str, Any]:
    measured = [n for n in THREADS if n <= usable_cores()]
    bare: list[float] = []
    alone: list[float] = []
    rates: dict[int, list[float]] = {number: [] for number in measured}
    for number in range(rounds + 1):
        bare_s = _bare(tars)
        alone_s = _alone(dataset, options, passes)
        found = {n: _rate(dataset, options, passes, threads=n) for n in measured}
        if number:  # the first round warms up
            bare.append(bare_s)
            alone.append(alone_s)
            for threads, samples_per_s in found.items():
                rates[threads].append(samples_per_s)
    free_s = statistics.median(bare)
    held_s = max(0.0, statistics.median(alone) - free_s)
    row = {
        "decode_us": {"median": free_s * 1e6, "all": [value * 1e6 for value in bare]},
        "pipeline_us": {"median": 1e6 * statistics.median(alone), "all": [s * 1e6 for s in alone]},
        "lock_us": held_s * 1e6,
        "measured": {
            str(n): {"median": statistics.median(all_), "all": all_} for n, all_ in rates.items()
        },
        "model": {str(n): round(rate(n, free_s, held_s), 1) for n in THREADS},
        "model's limit": round(1 / held_s, 1) if held_s else None,
    }
    print(row, flush=True)
    return row


def _alone(dataset: Path, options: dict[str, Any], passes: int) -> float:
    """Processor seconds a clip of a pipeline that decodes in this thread."""
    with make_pipeline(dataset, num_workers=0, batch_size=BATCH, **options) as pipe:
        _count(pipe)
        began = time.thread_time()
        samples = sum(_count(pipe) for _ in range(passes))
        return (time.thread_time() - began) / samples


def _rate(dataset: Path, options: dict[str, Any], passes: int, *, threads: int) -> float:
    """Samples a second of some threads, after a pass that is not counted."""
    with make_pipeline(dataset, num_workers=threads, batch_size=BATCH, **options) as pipe:
        _count(pipe)
        began = time.perf_counter()
        samples = sum(_count(pipe) for _ in range(passes))
        return samples / (time.perf_counter() - began)


def _count(pipe: Pipeline) -> int:
    return sum(len(batch["__key__"]) for batch in pipe)


def _bare(tars: Path) -> float:
    """Processor seconds a clip of decoding into one buffer."""
    row, clips, spent = np.empty(FRAMES, np.float32), 0, 0.0
    for path in sorted(tars.glob("*.tar")):
        with ShardReader(path) as reader:
            for number in range(len(reader)):
                members = reader.read(number)
                began = time.thread_time()
                if "flac" in members:
                    decode_window(members["flac"], "flac", row, sample_rate=RATE)
                else:
                    samples = npy_view(members["audio.npy"])[:FRAMES]
                    copy_samples(samples, row[: len(samples)])
                spent += time.thread_time() - began
                clips += 1
    return spent / clips
