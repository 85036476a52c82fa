"""Hours of streaming in which things go wrong: does every sample come once, and nothing pile up?

    python benchmarks/soak.py --hours 2 --out build/soak.json

Three processes, one a rank, stream two datasets in turn from a place where one operation in twenty
fails, stalls or gives damaged bytes (``flaky``): each dataset with cache="decoded" in one cache
folder that holds either of them and not both, and then both together with cache="raw" in a folder
that holds less than half of them. Now and then a rank gives up in mid-epoch and goes on from its
state. Every batch is compared with what was packed; after every epoch the samples of all ranks
are counted, and the memory (RssAnon + RssShmem), handles and threads of each rank are noted.
"""

import argparse
import json
import multiprocessing
import queue
import statistics
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flaky
import numpy as np
from clips import make_dataset
from machine import command, describe
from memory import held_bytes
from numpy.typing import NDArray
from tables import facts
from tqdm import tqdm

from loader import make_pipeline
from loader.pipeline import Pipeline
from packer.build import build
from packer.options import Options
from shards.errors import DataError
from shards.manifest import NAME, load_manifest

RANKS = 3
GIVING_UP = 5  # one epoch in so many is broken off and resumed
MEMORY_RATIO = 1.05  # the last quarter over the second
MORE_HANDLES = 2
CACHE_RATIO = 1.05  # what all ranks read at once may outgrow the limit, with a warning
_MOMENTS = ("settled", "last", "most")
PATIENCE_S = 1800.0  # of a rank for the others, at the end of an epoch

Checks = dict[str, tuple[int, int]]  # by key: number of the sample, CRC-32 of what is delivered


@dataclass(frozen=True, slots=True)
class Stream:
    """What is streamed in one way: arguments of ``make_pipeline``."""

    name: str
    shards: Any
    options: dict[str, Any]


@dataclass(slots=True)
class Report:
    """What one rank tells of one epoch."""

    rank: int
    stream: str
    epoch: int
    numbers: NDArray[np.int64]
    wrong: int
    raised: list[str]
    resumed: int
    skipped: int
    faults: dict[str, int]
    held_bytes: int
    handles: int
    threads: int


@dataclass(slots=True)
class Tally:
    """What all ranks told so far."""

    samples: int = 0
    epochs: int = 0
    wrong: int = 0
    unequal: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    resumed: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    held: dict[int, list[int]] = field(default_factory=dict)
    handles: dict[int, list[int]] = field(default_factory=dict)
    threads: dict[int, list[int]] = field(default_factory=dict)
    open: dict[tuple[str, int], list[Report]] = field(default_factory=dict)

    def add(self, report: Report, *, samples: int) -> None:
        """Count a report; once all ranks told of an epoch, see that each sample came once."""
        self.wrong += report.wrong
        self.raised += report.raised
        self.resumed += report.resumed
        self.faults += Counter(report.faults)
        for kept, value in (
            (self.held, report.held_bytes),
            (self.handles, report.handles),
            (self.threads, report.threads),
        ):
            kept.setdefault(report.rank, []).append(value)
        told = self.open.setdefault((report.stream, report.epoch), [])
        told.append(report)
        if len(told) == RANKS:
            del self.open[report.stream, report.epoch]
            counts = np.bincount(np.concatenate([r.numbers for r in told]), minlength=samples)
            self.samples, self.epochs = self.samples + int(counts.sum()), self.epochs + 1
            if len(counts) != samples or np.any(counts != 1):
                lost, more = int(np.sum(counts == 0)), int(np.sum(counts > 1))
                text = f"{report.stream}, epoch {report.epoch}: {lost} lost, {more} more than once"
                self.unequal.append(text)


def main() -> int:
    args = _arguments()
    datasets = _make_datasets(args.work, args.clips)
    checks = [_expected(folder) for folder in datasets]
    limits = _limits(datasets)
    streams = _streams(datasets, args.work, limits, args.fault_rate)
    began = time.monotonic()
    tally, most = _run(streams, checks, limits, args, deadline=began + args.hours * 3600)
    report = _report(tally, most, limits, args, hours=(time.monotonic() - began) / 3600)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: report[name] for name in ("hours", "counts", "verdicts")}, indent=1))
    return 0 if all(report["verdicts"].values()) else 1


def _make_datasets(work: Path, clips: int) -> list[Path]:
    """Two datasets of many small shards, out of one corpus."""
    whole = make_dataset(work, clips)
    lines = (whole.parent / "corpus" / "annotations.jsonl").read_text().splitlines()
    folders = []
    for name, mine in (("first", lines[::2]), ("second", lines[1::2])):
        folder = work / name
        if not (folder / "shards" / NAME).exists():
            folder.mkdir(parents=True, exist_ok=True)
            annotations = folder / "annotations.jsonl"
            annotations.write_text("\n".join(mine) + "\n")
            options = Options(shard_bytes=1_000_000)
            root = whole.parent / "corpus"
            build(annotations, str(folder / "shards"), root=root, options=options, workers=0)
        folders.append(folder / "shards")
    return folders


def _expected(folder: Path) -> Checks:
    """What each sample of a dataset is to be, read where it lies and without any fault."""
    options: dict[str, Any] = {"shuffle": 0, "drop_last": False, "audio_dtype": "int16"}
    with make_pipeline(folder, num_workers=1, **options) as pipe:
        found = [(key, crc) for batch in pipe for key, crc in _delivered(batch)]
    return {key: (number, crc) for number, (key, crc) in enumerate(found)}


def _delivered(batch: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Key of each sample of a batch, and the CRC-32 of its audio, tokens and labels."""
    for row, key in enumerate(batch["__key__"]):
        if batch["weight"][row]:
            crc = 0
            for name in ("audio", "midi", "labels"):
                crc = zlib.crc32(batch[name][row].numpy().tobytes(), crc)
            yield key, crc


def _limits(datasets: list[Path]) -> dict[str, int]:
    """Bytes of each cache folder."""
    manifests = [load_manifest((d / NAME).read_bytes(), name=str(d)) for d in datasets]
    raw = [manifest.bytes for manifest in manifests]
    decoded = [round(2 * 24000 * manifest.duration_s) for manifest in manifests]
    one = max(r + d for r, d in zip(raw, decoded, strict=True))
    return {"decoded": round(1.2 * one), "raw": round(0.45 * sum(raw))}


def _streams(datasets: list[Path], work: Path, limits: dict[str, int], rate: float) -> list[Stream]:
    urls = [f"flaky://{folder.absolute()}" for folder in datasets]
    common: dict[str, Any] = {
        "storage_options": {"rate": rate},
        "audio_dtype": "int16",
        "drop_last": False,
        "num_workers": 1,
        # so that what is under way at a time is a small part of so small a dataset
        "batch_size": 4,
        "prefetch": 1,
        "shuffle": 20,
    }
    caches = {
        name: {"cache": name, "cache_dir": work / f"cache-{name}", "cache_bytes": limit}
        for name, limit in limits.items()
    }
    return [
        Stream("first, decoded", urls[0], common | caches["decoded"]),
        Stream("second, decoded", urls[1], common | caches["decoded"]),
        Stream("both, raw", urls, common | caches["raw"]),
    ]


def _run(
    streams: list[Stream],
    checks: list[Checks],
    limits: dict[str, int],
    args: argparse.Namespace,
    *,
    deadline: float,
) -> tuple[Tally, dict[str, int]]:
    """Let the ranks stream until the deadline; what they told, and the most that caches held."""
    context = multiprocessing.get_context("spawn")
    barrier, reports = context.Barrier(RANKS), context.Queue()
    going = context.Value("b", 1)
    merged = _merged(checks)
    ranks = [
        context.Process(
            target=stream_all, args=(rank, streams, merged, barrier, going, deadline, reports)
        )
        for rank in range(RANKS)
    ]
    for rank in ranks:
        rank.start()
    totals = {s.name: len(c) for s, c in zip(streams, [*checks, merged], strict=True)}
    tally, most = Tally(), dict.fromkeys(limits, 0)
    bar = tqdm(total=round(args.hours * 60), unit="min", disable=None)
    began = time.monotonic()
    while any(rank.is_alive() for rank in ranks) or not reports.empty():
        try:
            report = reports.get(timeout=1.0)
            tally.add(report, samples=totals[report.stream])
        except queue.Empty:
            pass
        for name in limits:
            most[name] = max(most[name], _cached_bytes(args.work / f"cache-{name}"))
        bar.set_postfix(samples=tally.samples, faults=tally.faults.total(), refresh=False)
        bar.update(round((time.monotonic() - began) / 60) - bar.n)
        if any(rank.exitcode for rank in ranks):
            barrier.abort()  # the others end at once instead of waiting
    for rank in ranks:
        rank.join()
        if rank.exitcode:
            tally.unequal.append(f"a rank ended with status {rank.exitcode}")
    return tally, most


def _merged(checks: list[Checks]) -> Checks:
    """Checks of several datasets end to end."""
    merged: Checks = {}
    for own in checks:
        first = len(merged)
        merged |= {key: (first + number, crc) for key, (number, crc) in own.items()}
    return merged


def stream_all(
    rank: int,
    streams: list[Stream],
    checks: Checks,
    barrier: Any,
    going: Any,
    deadline: float,
    reports: Any,
) -> None:
    """What one rank does: an epoch of each stream in turn, in step with the others."""
    chance = np.random.default_rng(rank)
    with ExitStack() as stack:
        mine = [stack.enter_context(_Rank(rank, stream, checks)) for stream in streams]
        epoch = 0
        while going.value:
            for each in mine:
                each.run_epoch(epoch, give_up=bool(chance.integers(GIVING_UP) == 0))
                reports.put(each.tell(epoch))
                barrier.wait(PATIENCE_S)
            if rank == 0:
                going.value = time.monotonic() < deadline
            barrier.wait(PATIENCE_S)
            epoch += 1


class _Rank:
    """One rank of one stream: a pipeline, made anew where it gave up."""

    def __init__(self, rank: int, stream: Stream, checks: Checks) -> None:
        self._rank, self._stream, self._checks = rank, stream, checks
        self._pipe = self._open()
        self._first = self._number_of_first()
        self._forget()

    def run_epoch(self, epoch: int, *, give_up: bool) -> None:
        """Stream an epoch; with ``give_up`` break it off in the middle and go on from the state."""
        left = len(self._pipe) // 2 if give_up else None
        self._pipe.set_epoch(epoch)
        while True:
            try:
                for batch in self._pipe:
                    self._check(batch)
                    left = None if left is None else left - 1
                    if left == 0:
                        break
                else:
                    return
            except DataError as error:  # such a thing ends a training: it goes on from its state
                self._raised.append(f"{type(error).__name__}: {error}"[:300])
            left = None
            self._resume()
            if self._pipe.state_dict()["epoch"] != epoch:
                return

    def tell(self, epoch: int) -> Report:
        """What happened since it was last told."""
        numbers = np.array(self._numbers, dtype=np.int64)
        report = Report(
            rank=self._rank,
            stream=self._stream.name,
            epoch=epoch,
            numbers=numbers - self._first,
            wrong=self._wrong,
            raised=self._raised,
            resumed=self._resumed,
            skipped=self._pipe.stats()["skipped"],
            faults=dict(flaky.faults),
            held_bytes=held_bytes(),
            handles=_other_handles(self._stream.options["cache_dir"].parent),
            threads=threading.active_count(),
        )
        flaky.faults.clear()
        self._forget()
        return report

    def __enter__(self) -> "_Rank":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pipe.close()

    def _open(self) -> Pipeline:
        stream = self._stream
        return make_pipeline(stream.shards, rank=self._rank, world_size=RANKS, **stream.options)

    def _resume(self) -> None:
        state = json.loads(json.dumps(self._pipe.state_dict()))
        self._pipe.close()
        self._pipe = self._open()
        self._pipe.load_state_dict(state)
        self._resumed += 1

    def _check(self, batch: dict[str, Any]) -> None:
        for key, crc in _delivered(batch):
            number, due = self._checks[key]
            self._numbers.append(number)
            self._wrong += crc != due

    def _number_of_first(self) -> int:
        """Number, over all datasets, of this one's first sample."""
        return 0 if not self._stream.name.startswith("second") else len(self._checks) - self._size()

    def _size(self) -> int:
        with make_pipeline(
            self._stream.shards, rank=0, world_size=1, **self._stream.options | {"batch_size": 1}
        ) as pipe:
            return len(pipe)

    def _forget(self) -> None:
        self._numbers: list[int] = []
        self._wrong = self._resumed = 0
        self._raised: list[str] = []


def _other_handles(caches: Path) -> int:
    """Open files but for the cached shards that are kept open, of which there are at most 64."""
    count = 0
    for handle in Path("/proc/self/fd").iterdir():
        try:
            count += not handle.readlink().is_relative_to(caches.absolute())
        except FileNotFoundError:  # the listing's own, and what another thread just closed
            continue
    return count


def _cached_bytes(folder: Path) -> int:
    """Bytes of tars and of parts of them that lie in a cache."""
    total = 0
    for path in folder.glob("*/*"):
        if path.name.endswith((".tar", ".part")):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
    return total


def _report(
    tally: Tally, most: dict[str, int], limits: dict[str, int], args: Any, *, hours: float
) -> dict[str, Any]:
    memory = {rank: _growth(held) for rank, held in tally.held.items()}
    handles = {rank: _growth(found) for rank, found in tally.handles.items()}
    threads = {rank: _growth(found) for rank, found in tally.threads.items()}
    leftovers = [str(p.name) for p in args.work.glob("cache-*/*/*.part")]
    report = {
        "machine": describe("torch", "numpy", "miniaudio", "symusic", "fsspec"),
        "command": command("benchmarks/soak.py", args),
        "measure": "One run",
        "hours": round(hours, 3),
        "counts": {
            "ranks": RANKS,
            "samples": tally.samples,
            "epochs": tally.epochs,
            "faults": tally.faults.total(),
            "faults by kind": dict(tally.faults),
            "errors that ended an epoch, which went on from its state": len(tally.raised),
            "resumed": tally.resumed,
            "samples that were not what was packed": tally.wrong,
        },
        "raised": [text.replace(f"{args.work.absolute()}/", "") for text in tally.raised[:20]],
        "unequal": tally.unequal,
        "memory": memory,
        "handles": handles,
        "threads": threads,
        "cache": {name: {"limit": limits[name], "most": most[name]} for name in limits},
        "verdicts": {
            "every sample exactly once in every epoch": not tally.unequal and not tally.open,
            "no wrong sample": tally.wrong == 0,
            "memory flat": all(found["ratio"] <= MEMORY_RATIO for found in memory.values()),
            "handles flat": all(
                found["last"] <= found["settled"] + MORE_HANDLES for found in handles.values()
            ),
            "caches within their limits": all(
                most[name] <= CACHE_RATIO * limits[name] for name in limits
            ),
            "no part of a shard left": not leftovers,
        },
    }
    return report | {"tables": tables(report), "notes": []}


def tables(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was counted, what was held, and what is said of it."""
    counts = dict(report["counts"])
    counts |= {f"faults: {kind}": n for kind, n in counts.pop("faults by kind").items()}
    held = [
        [f"{what} of rank {rank}{unit}", *(f"{found[k] / of:.4g}" for k in _MOMENTS)]
        for what, unit, of in (("memory", ", MB", 1e6), ("handles", "", 1), ("threads", "", 1))
        for rank, found in sorted(report[what].items())
    ]
    held += [
        [f"cache, {name}, MB; its limit is {one['limit'] / 1e6:.4g}", "", "", f"{most:.4g}"]
        for name, one in report["cache"].items()
        for most in (one["most"] / 1e6,)
    ]
    return [
        facts(f"Counts of {report['hours']:.3g} hours", counts),
        {
            "title": "What was held",
            "columns": ["what", "second quarter", "last quarter", "most"],
            "rows": held,
        },
        facts("Verdicts", report["verdicts"]),
    ]


def _growth(values: list[int]) -> dict[str, float]:
    """The median of the second quarter of a run and of the last one, and the most of all."""
    quarter = max(1, len(values) // 4)
    settled = statistics.median(values[quarter : 2 * quarter] or values)
    last = statistics.median(values[-quarter:])
    return {
        "settled": settled,
        "last": last,
        "most": max(values),
        "ratio": round(last / settled, 4),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/soak"))
    parser.add_argument("--out", type=Path, default=Path("build/soak.json"))
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--clips", type=int, default=480, help="of both datasets together")
    parser.add_argument("--fault-rate", type=float, default=0.05, help="share of operations")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
