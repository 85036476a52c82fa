"""Ten-second windows out of five-minute recordings: decoded alone, or cut from the whole.

    python benchmarks/windows.py --out build/windows.json

The pipeline decodes a random window of each recording with its notes. The other way decodes the
whole recording with the same decoder, into memory that is used again, and cuts audio and notes out
of it. Two threads each, audio as FLAC, all in one run, turn by turn; medians over the rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from loader import make_pipeline
from loader.audio import decode_window
from loader.pipeline import Pipeline
from loader.tokens import octuple
from packer.build import build
from packer.corpus import write_corpus
from packer.options import Options
from shards.manifest import NAME
from shards.notes import read_notes
from shards.reader import ShardReader

RATE, WINDOW_S, RECORDING_S, THREADS, NOTES = 24000, 10.0, 300.0, 2, 512
EPOCHS = 20  # of windows in a turn: one of whole recordings takes as long


def main() -> None:
    args = _arguments()
    dataset = _dataset(args.work, args.recordings)
    with ExitStack() as stack:
        pipe = stack.enter_context(
            make_pipeline(
                dataset, crop="random", clip_seconds=WINDOW_S, num_workers=THREADS, batch_size=8
            )
        )
        paths = sorted(dataset.glob("*.tar"))
        readers = [stack.enter_context(ShardReader(path)) for path in paths]
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        ways: dict[str, Callable[[], float]] = {
            "windows": lambda: _windows(pipe),
            "whole recordings": lambda: _whole(readers, pool),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.rounds + 1):
            for name, way in ways.items():
                rate = way()
                if number:  # the first round warms up
                    rates[name].append(rate)
        report = _report(rates, pipe, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/windows"))
    parser.add_argument("--out", type=Path, default=Path("build/windows.json"))
    parser.add_argument("--recordings", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _dataset(work: Path, recordings: int) -> Path:
    """Whole recordings of made pieces as FLAC at 24 kHz, with MIDI and JSON."""
    corpus, shards = work / f"corpus-{recordings}", work / f"shards-{recordings}"
    if not (shards / NAME).exists():
        annotations = write_corpus(
            corpus, pieces=recordings, piece_seconds=RECORDING_S, clip_seconds=RECORDING_S
        )
        lines = [json.loads(line) for line in annotations.read_text().splitlines()]
        for line in lines:  # what is no segment is kept whole
            del line["start_time"], line["end_time"]
        annotations.write_text("".join(json.dumps(line) + "\n" for line in lines))
        build(annotations, str(shards), options=Options())
    return shards


def _windows(pipe: Pipeline) -> float:
    """Windows a second that the pipeline gives."""
    began = time.perf_counter()
    samples = sum(len(batch["__key__"]) for _ in range(EPOCHS) for batch in pipe)
    return samples / (time.perf_counter() - began)


def _whole(readers: list[ShardReader], pool: ThreadPoolExecutor) -> float:
    """Windows a second when whole recordings are decoded for them."""
    places = [(reader, row) for reader in readers for row in range(len(reader))]
    shares = [places[number::THREADS] for number in range(THREADS)]
    began = time.perf_counter()
    samples = sum(pool.map(_cut, shares, range(THREADS)))
    return samples / (time.perf_counter() - began)


def _cut(places: list[tuple[ShardReader, int]], seed: int) -> int:
    """Decode recordings whole, and cut a window of audio and notes out of each."""
    rng = np.random.default_rng(seed)
    frames = round(WINDOW_S * RATE)
    whole = np.empty(round(2 * RECORDING_S * RATE), np.float32)
    audio, midi = np.empty(frames, np.float32), np.zeros((NOTES, 8), np.int64)
    for reader, row in places:
        members = reader.read(row)
        meta = json.loads(members["json"])
        decode_window(members["flac"], "flac", whole[: meta["frames"]], sample_rate=RATE)
        start = int(rng.integers(meta["frames"] - frames))
        audio[:] = whole[start : start + frames]
        times = {"start_s": start / RATE, "end_s": start / RATE + WINDOW_S}
        notes = read_notes(members["mid"], beat=meta["midi_beat"], **times).table[:NOTES]
        midi[: len(notes)] = octuple(notes)
    return len(places)


def _report(
    rates: dict[str, list[float]], pipe: Pipeline, args: argparse.Namespace
) -> dict[str, Any]:
    medians = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    stats = pipe.stats()
    return {
        "machine": describe("miniaudio", "symusic", "torch"),
        "command": f"python benchmarks/windows.py --recordings {args.recordings} "
        f"--rounds {args.rounds}",
        "samples_per_s": {name: {"median": medians[name], "all": rates[name]} for name in rates},
        "thread_ms_per_window": {
            stage: round(1e3 * seconds / stats["samples"], 3)
            for stage, seconds in stats["time_s"].items()
        },
        "ratios": {"windows / whole": round(medians["windows"] / medians["whole recordings"], 1)},
    }


def _table(report: dict[str, Any]) -> str:
    lines = ["| ten-second windows of five-minute recordings | samples/s |", "| --- | --- |"]
    lines += [f"| {name} | {r['median']:.0f} |" for name, r in report["samples_per_s"].items()]
    return "\n".join([*lines, "", f"windows / whole: {report['ratios']['windows / whole']:.1f}"])


if __name__ == "__main__":
    main()
