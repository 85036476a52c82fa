"""Samples a second out of FLAC and decoded shards: this loader, webdataset, and bare loops.

    python benchmarks/streaming.py --out build/streaming.json

All in one run, turn by turn, so that a noisy machine is noisy for each of them; medians over the
rounds and their ratios. webdataset decodes with soundfile, makes the same MIDI tokens and labels,
and is run with 0, 1 and 2 workers, which stay alive between epochs. Decoded shards are those that
the cache keeps; webdataset reads the same tars, the arrays taken straight out of their bytes. The
bare loops read and decode into one buffer again and again, and make no batches. A turn over decoded
shards begins with a pass that is not counted: on virtual machines, memory that nobody touched for a
while is slow when it is touched again, and whoever came first in a round would pay for all.
"""

import argparse
import io
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import webdataset
from clips import RATE, SECONDS, decoded_cache, decoded_tars, make_dataset
from machine import describe
from numpy.typing import NDArray

from loader import make_pipeline
from loader.audio import decode_window
from loader.fast_decoders import copy_samples
from loader.tokens import octuple
from shards.notes import read_notes
from shards.npy import npy_view
from shards.pcm import INT16_SCALE
from shards.reader import ShardReader

NOTES, BATCH = 512, 16
THREADS = (0, 1, 2)
PASSES = 3  # over decoded shards in a turn: one takes a tenth of a second
NPY_HEADER = 128
FLAC, DECODED = "FLAC: ", "decoded, "
FLOAT, INT16 = f"{DECODED}float32: ", f"{DECODED}int16: "
FRAMES = round(RATE * SECONDS)


def main() -> None:
    args = _arguments()
    dataset = args.dataset or make_dataset(args.work, args.clips)
    with ExitStack() as stack:
        epochs = _contestants(dataset, stack)
        rates: dict[str, list[float]] = {name: [] for name in epochs}
        for number in range(args.rounds + 1):
            for name, epoch in epochs.items():
                if name.startswith(DECODED):
                    epoch()
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
        "by_round": _by_round(rates),
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
    parser.add_argument("--dataset", type=Path, help="a packed dataset, instead of making one")
    parser.add_argument("--quick", action="store_true", help="320 clips, 3 rounds")
    args = parser.parse_args()
    if args.quick:
        args.clips, args.rounds = 320, 3
    return args


def _contestants(dataset: Path, stack: ExitStack) -> dict[str, Callable[[], int]]:
    """What is measured: functions that run one epoch and count its samples."""
    found: dict[str, Callable[[], int]] = {}
    decoded = decoded_tars(dataset)
    for workers in THREADS:
        pipe = stack.enter_context(make_pipeline(dataset, num_workers=workers, batch_size=BATCH))
        found[f"{FLAC}this loader, {workers} threads"] = partial(_count, pipe)
    found[f"{FLAC}this loader, 2 threads, first epoch"] = partial(_first_epoch, dataset)
    for dtype in ("float32", "int16"):
        for workers in THREADS:
            options = {"num_workers": workers, "audio_dtype": dtype, "batch_size": BATCH}
            pipe = stack.enter_context(make_pipeline(dataset, **decoded_cache(dataset), **options))
            several = [pipe] * PASSES
            found[f"decoded, {dtype}: this loader, {workers} threads"] = partial(_all, several)
    for workers in THREADS:
        flac, arrays = _webdataset(dataset, workers), _webdataset(decoded, workers)
        found[f"{FLAC}webdataset, {workers} workers"] = partial(_count, flac)
        found[f"{FLOAT}webdataset, {workers} workers"] = partial(_count, arrays)
    pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(2))
    for name, folder, loop, passes in (
        (FLAC, dataset, _bare_flac, 1),
        (FLOAT, decoded, _bare_float32, PASSES),
        (INT16, decoded, _bare_int16, PASSES),
    ):
        tars = passes * sorted(str(path) for path in folder.glob("*.tar"))
        found[f"{name}bare loop, 2 processes"] = partial(_spread, pool, loop, tars)
    return found


def _spread(pool: Any, loop: Callable[[str], int], tars: list[str]) -> int:
    return sum(pool.map(loop, tars, chunksize=1))


def _first_epoch(dataset: Path) -> int:
    with make_pipeline(dataset, num_workers=2, batch_size=BATCH) as pipe:
        return _count(pipe)


def _all(passes: list[Any]) -> int:
    return sum(map(_count, passes))


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
    meta = json.loads(sample["json"])
    if "flac" in sample:
        audio, _ = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
    else:
        audio = npy_view(sample["audio.npy"]) * np.float32(1 / INT16_SCALE)
    if "notes.npy" in sample:
        table = npy_view(sample["notes.npy"]).astype(np.float64)
    else:
        table = read_notes(sample["mid"], end_s=SECONDS, beat=meta["midi_beat"]).table
    notes = octuple(table)[:NOTES]
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


def _bare_flac(tar: str) -> int:
    """Decode every clip of a shard into one buffer: the limit that the decoder sets."""
    row = np.empty(FRAMES, np.float32)
    with ShardReader(Path(tar)) as reader:
        for number in range(len(reader)):
            decode_window(reader.read(number)["flac"], "flac", row, sample_rate=RATE)
        return len(reader)


def _bare_float32(tar: str) -> int:
    """Read and scale every clip of a decoded shard: the limit that memory sets."""
    row, samples = np.empty(FRAMES, np.float32), np.empty(FRAMES, np.int16)
    with ShardReader(Path(tar)) as reader:
        for number in range(len(reader)):
            _read_samples(reader, number, samples)
            copy_samples(samples, row)
        return len(reader)


def _bare_int16(tar: str) -> int:
    row = np.empty(FRAMES, np.int16)
    with ShardReader(Path(tar)) as reader:
        for number in range(len(reader)):
            _read_samples(reader, number, row)
        return len(reader)


def _read_samples(reader: ShardReader, number: int, out: NDArray[np.int16]) -> None:
    member = next(m for m in reader.members(number) if m.extension == "audio.npy")
    size = min(member.size - NPY_HEADER, out.nbytes)
    reader.read_into(memoryview(out).cast("B")[:size], member.start + NPY_HEADER)


def _ratios(medians: dict[str, float]) -> dict[str, float]:
    def best(start: str) -> float:
        return max(rate for name, rate in medians.items() if name.startswith(start))

    ours = {kind: best(f"{kind}this loader") for kind in (FLAC, FLOAT, INT16)}
    first = medians[f"{FLAC}this loader, 2 threads, first epoch"]
    ratios = {
        "FLAC: this loader / webdataset": ours[FLAC] / best(f"{FLAC}webdataset"),
        "FLAC: first epoch / webdataset": first / best(f"{FLAC}webdataset"),
        "FLAC: this loader / bare loop": ours[FLAC] / best(f"{FLAC}bare"),
        "decoded: this loader / webdataset": ours[FLOAT] / best(f"{FLOAT}webdataset"),
        "decoded: this loader / bare loop": ours[FLOAT] / best(f"{FLOAT}bare"),
        "decoded: int16 / float32": ours[INT16] / ours[FLOAT],
        "decoded int16: this loader / bare loop": ours[INT16] / best(f"{INT16}bare"),
        "decoded / FLAC": ours[FLOAT] / ours[FLAC],
    }
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def _by_round(rates: dict[str, list[float]]) -> dict[str, list[float]]:
    """The same ratios out of each round alone, whose spread is the noise."""
    rounds = range(len(next(iter(rates.values()))))
    found = [_ratios({name: own[number] for name, own in rates.items()}) for number in rounds]
    return {name: [ratios[name] for ratios in found] for name in found[0]}


def _table(medians: dict[str, float], ratios: dict[str, float]) -> str:
    lines = ["| what | samples/s |", "| --- | --- |"]
    lines += [f"| {name} | {rate:.0f} |" for name, rate in medians.items()]
    lines += ["", "| ratio of the best settings | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {ratio:.2f} |" for name, ratio in ratios.items()])


if __name__ == "__main__":
    main()
