"""Training from a slow mount: streamed, copied first, or file by file.

    python benchmarks/mount.py --out build/mount.json

The mount is ``slowfs``: FUSE, 100 ms a request, one link of 10 MB/s. In every round, turn by turn:
an epoch into an empty cache, and one of the FLAC that it then holds; three epochs with
cache="decoded", the first into an empty cache; copying all files and reading them then; and
audio and MIDI of 16 samples as files of their own, each of which costs three requests. First
epochs, and first batches, are timed from ``make_pipeline`` on. Medians over the rounds.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips import make_dataset
from loose import read_s, unpack
from machine import describe
from slowfs import BYTES_PER_S, LATENCY_S, mounted

from loader import make_pipeline
from loader.pipeline import Pipeline
from shards.manifest import NAME, Manifest, load_manifest

FILES = 16  # samples that are read as files
_AS_FILES = f"epoch of files, extrapolated from {FILES} samples"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is streamed."""

    folder: Path
    manifest: Manifest

    @property
    def tar_bytes(self) -> list[int]:
        return [shard.filesize or 0 for shard in self.manifest.shards]

    @property
    def shuffle(self) -> int:
        """A tenth of the data, which is what the default of 1,000 is to 10,000 clips."""
        return self.manifest.samples // 10


def main() -> None:
    args = _arguments()
    folder = make_dataset(args.work, args.clips, shard_mb=args.shard_mb)
    dataset = Dataset(folder, load_manifest((folder / NAME).read_bytes(), name=str(folder)))
    first = folder / dataset.manifest.shards[0].url
    seconds: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(dir=args.work) as scratch,
        mounted(folder) as mount,
        mounted(unpack(first, Path(scratch) / "files", FILES)) as files,
    ):
        for number in range(args.rounds):
            for name, value in _round(dataset, mount, files, Path(scratch) / f"{number}"):
                seconds.setdefault(name, []).append(value)
                print(f"{name}: {value:.2f} s", flush=True)
    report = _report(dataset, seconds, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/mount"))
    parser.add_argument("--out", type=Path, default=Path("build/mount.json"))
    parser.add_argument("--clips", type=int, default=1280)
    parser.add_argument("--shard-mb", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def _round(
    dataset: Dataset, mount: Path, files: Path, scratch: Path
) -> Iterator[tuple[str, float]]:
    """Names and seconds of everything that is measured, once."""
    yield from _streamed(dataset, mount, scratch)
    yield from _decoded(dataset, mount, scratch)
    yield from _copied_first(dataset, mount, scratch)
    yield _AS_FILES, read_s(files, FILES) * dataset.manifest.samples
    shutil.rmtree(scratch)


def _streamed(dataset: Dataset, mount: Path, scratch: Path) -> Iterator[tuple[str, float]]:
    began = time.perf_counter()
    with make_pipeline(mount, shuffle=dataset.shuffle, cache_dir=scratch / "raw") as pipe:
        first, last = _epoch(pipe, began)
    yield "first batch, streamed", first
    yield "first epoch, streamed", last
    with make_pipeline(mount, shuffle=dataset.shuffle, cache_dir=scratch / "raw") as pipe:
        yield "epoch of cached FLAC", _epoch(pipe, time.perf_counter())[1]


def _decoded(dataset: Dataset, mount: Path, scratch: Path) -> Iterator[tuple[str, float]]:
    began = time.perf_counter()
    with make_pipeline(
        mount, shuffle=dataset.shuffle, cache="decoded", cache_dir=scratch / "decoded"
    ) as pipe:
        for name in ("first", "second", "third"):
            yield f"{name} epoch, decoded", _epoch(pipe, began)[1]
            began = time.perf_counter()


def _copied_first(dataset: Dataset, mount: Path, scratch: Path) -> Iterator[tuple[str, float]]:
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(mount), str(scratch / "copy")], check=True)
    with make_pipeline(scratch / "copy", shuffle=dataset.shuffle) as pipe:
        first, last = _epoch(pipe, began)
    yield "first batch, copied first", first
    yield "first epoch, copied first", last


def _epoch(pipe: Pipeline, began: float) -> tuple[float, float]:
    """Seconds to the first batch and to the last."""
    seconds = [time.perf_counter() - began for _ in pipe]
    return seconds[0], seconds[-1]


def _report(
    dataset: Dataset, seconds: dict[str, list[float]], args: argparse.Namespace
) -> dict[str, Any]:
    medians = {name: round(statistics.median(found), 3) for name, found in seconds.items()}
    sizes = dataset.tar_bytes
    link_s, shard_s = sum(sizes) / BYTES_PER_S, max(sizes) / BYTES_PER_S
    flac, cold = medians["epoch of cached FLAC"], medians["first epoch, streamed"]
    return {
        "machine": describe("miniaudio", "symusic", "torch", "mfusepy"),
        "command": f"python benchmarks/mount.py --clips {args.clips} --shard-mb {args.shard_mb} "
        f"--rounds {args.rounds}",
        "mount": {"kind": "FUSE", "latency_s": LATENCY_S, "bytes_per_s": BYTES_PER_S},
        "dataset": {
            "samples": dataset.manifest.samples,
            "shards": len(sizes),
            "tar_bytes": sum(sizes),
            "largest_shard_bytes": max(sizes),
            "shuffle": dataset.shuffle,
        },
        "seconds": {name: {"median": medians[name], "all": seconds[name]} for name in seconds},
        "link_s": {"all tars": round(link_s, 3), "largest shard": round(shard_s, 3)},
        "ratios": {
            "link / first epoch, streamed": round(link_s / cold, 3),
            "link / first epoch, decoded": round(link_s / medians["first epoch, decoded"], 3),
            "cached FLAC / second epoch, decoded": round(
                flac / medians["second epoch, decoded"], 2
            ),
            "cached FLAC / third epoch, decoded": round(flac / medians["third epoch, decoded"], 2),
            "copied first / streamed": round(medians["first epoch, copied first"] / cold, 2),
            "files / streamed": round(medians[_AS_FILES] / cold, 1),
        },
        "first_batch_beyond_shard_s": round(medians["first batch, streamed"] - shard_s, 3),
    }


def _table(report: dict[str, Any]) -> str:
    samples = report["dataset"]["samples"]
    lines = ["| what | s | samples/s |", "| --- | --- | --- |"]
    for name, found in report["seconds"].items():
        rate = f"{samples / found['median']:.0f}" if "epoch" in name else ""
        lines.append(f"| {name} | {found['median']:.2f} | {rate} |")
    lines += [f"| the link alone, {n} | {s:.2f} | |" for n, s in report["link_s"].items()]
    beyond = report["first_batch_beyond_shard_s"]
    lines += ["", "| ratio | |", "| --- | --- |"]
    lines += [f"| {name} | {ratio:g} |" for name, ratio in report["ratios"].items()]
    return "\n".join([*lines, "", f"The first batch comes {beyond:.2f} s after a shard could."])


if __name__ == "__main__":
    main()
