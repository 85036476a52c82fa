"""Samples a second out of FLAC shards: this loader, webdataset at its best, and the bare decoder.

    python benchmarks/streaming.py --out build/streaming.json

All in one run, turn by turn, so that a noisy machine is noisy for each of them; medians over the
rounds and their ratios. webdataset decodes with soundfile, makes the same MIDI tokens and labels,
and is run with 0, 1 and 2 workers, which stay alive between epochs.
"""

import argparse
import io
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import webdataset
from machine import describe

from loader import make_pipeline
from loader.audio import decode_window
from loader.tokens import octuple
from packer.build import build
from packer.corpus import write_corpus
from packer.options import Options
from shards.notes import read_notes
from shards.reader import ShardReader

RATE, SECONDS, NOTES, BATCH = 24000, 10.0, 512, 16
FRAMES = round(RATE * SECONDS)


def main() -> None:
    args = _arguments()
    dataset = _dataset(args.work, args.clips)
    with ExitStack() as stack:
        epochs = _contestants(dataset, stack)
        rates: dict[str, list[float]] = {name: [] for name in epochs}
        for number in range(args.rounds + 1):
            for name, epoch in epochs.items():
                began = time.perf_counter()
                samples = epoch()
                if number:  # the first round warms up
                    rates[name].append(samples / (time.perf_counter() - began))
    medians = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    report = {
        "machine": describe("webdataset", "soundfile", "miniaudio", "symusic", "torch"),
        "command": f"python benchmarks/streaming.py --clips {args.clips} --rounds {args.rounds}",
        "samples_per_s": {name: {"median": medians[name], "all": rates[name]} for name in rates},
        "ratios": _ratios(medians),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(medians, report["ratios"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/streaming"))
    parser.add_argument("--out", type=Path, default=Path("build/streaming.json"))
    parser.add_argument("--clips", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="320 clips, 3 rounds")
    args = parser.parse_args()
    if args.quick:
        args.clips, args.rounds = 320, 3
    return args


def _dataset(work: Path, clips: int) -> Path:
    """Ten-second clips of made pieces as FLAC at 24 kHz, with MIDI and JSON."""
    folder = work / f"{clips}"
    if not (folder / "shards" / "manifest.json").exists():
        annotations = write_corpus(folder / "corpus", pieces=-(-clips // 6))
        lines = annotations.read_text().splitlines()[:clips]
        annotations.write_text("\n".join(lines) + "\n")
        build(annotations, str(folder / "shards"), options=Options())
    return folder / "shards"


def _contestants(dataset: Path, stack: ExitStack) -> dict[str, Callable[[], int]]:
    """What is measured: functions that run one epoch and count its samples."""
    found: dict[str, Callable[[], int]] = {}
    for workers in (0, 1, 2):
        pipe = stack.enter_context(make_pipeline(dataset, num_workers=workers, batch_size=BATCH))
        found[f"this loader, {workers} threads"] = lambda pipe=pipe: _count(pipe)
    for workers in (0, 1, 2):
        peer = _webdataset(dataset, workers)
        found[f"webdataset, {workers} workers"] = lambda peer=peer: _count(peer)
    pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(2))
    shards = sorted(str(path) for path in dataset.glob("*.tar"))
    found["bare decoder, 2 processes"] = lambda: sum(pool.map(_bare, shards, chunksize=1))
    return found


def _count(batches: Any) -> int:
    return sum(len(batch["__key__"]) for batch in batches)


def _webdataset(dataset: Path, workers: int) -> Any:
    shards = sorted(str(path) for path in dataset.glob("*.tar"))
    stages = (
        webdataset.WebDataset(shards, shardshuffle=100, seed=0)
        .shuffle(1000)
        .map(_decode)
        .batched(BATCH, collation_fn=_collate, partial=False)
    )
    return webdataset.WebLoader(
        stages, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )


def _decode(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample as this loader makes it, with soundfile."""
    audio, _ = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
    meta = json.loads(sample["json"])
    notes = octuple(read_notes(sample["mid"], end_s=SECONDS, beat=meta["midi_beat"]).table)[:NOTES]
    row, midi = np.zeros(FRAMES, np.float32), np.zeros((NOTES, 8), np.int64)
    row[: len(audio)] = audio[:FRAMES]
    midi[: len(notes)] = notes
    labels = np.array(list(meta["labels"].values()), dtype=np.float32)
    return {"__key__": sample["__key__"], "audio": row, "midi": midi, "labels": labels}


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {"__key__": [sample["__key__"] for sample in samples]}
    for name in ("audio", "midi", "labels"):
        batch[name] = torch.from_numpy(np.stack([sample[name] for sample in samples]))
    return batch


def _bare(shard: str) -> int:
    """Decode every clip of a shard into one buffer: the limit that the decoder sets."""
    row = np.empty(FRAMES, np.float32)
    with ShardReader(Path(shard)) as reader:
        for number in range(len(reader)):
            decode_window(reader.read(number)["flac"], "flac", row, sample_rate=RATE)
        return len(reader)


def _ratios(medians: dict[str, float]) -> dict[str, float]:
    def best(prefix: str) -> float:
        return max(rate for name, rate in medians.items() if name.startswith(prefix))

    ours = best("this loader")
    return {
        "this loader / webdataset": round(ours / best("webdataset"), 2),
        "this loader / bare decoder": round(ours / best("bare"), 2),
    }


def _table(medians: dict[str, float], ratios: dict[str, float]) -> str:
    lines = ["| what | samples/s |", "| --- | --- |"]
    lines += [f"| {name} | {rate:.0f} |" for name, rate in medians.items()]
    lines += ["", "| ratio of the best settings | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {ratio:.2f} |" for name, ratio in ratios.items()])


if __name__ == "__main__":
    main()
