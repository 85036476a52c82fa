"""One cache, many processes: they start, stream, end and are killed at random, for minutes.

    python benchmarks/cache_storm.py --seconds 300 --processes 8 --out build/cache_storm.json

Each process streams a dataset through the same folder, whose limit is smaller than the dataset,
over a file system that is slow enough for a kill to come in the midst of a transfer. Meanwhile
every shard in the folder is compared with its source. At the end, with nobody left to be killed,
an epoch has to come whole. The exit status is 1 if anything was wrong.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from machine import command, describe
from tables import facts
from tqdm import tqdm

from loader import make_pipeline, transfer
from packer.build import build
from packer.corpus import write_corpus
from packer.options import Options

_HANGS_S = 60.0
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class SlowFolder(LocalFileSystem):  # type: ignore[misc]  # it has no types
    """``storm:///path``: local files that count as remote ones, and take a while to open."""

    protocol = "storm"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("storm://")))

    def unstrip_protocol(self, name: str) -> str:
        return f"storm://{name}"

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        time.sleep(0.02)
        return super().open(path, mode)


@dataclass(frozen=True)
class Task:
    """What all processes stream."""

    url: str
    cache: Path
    limit_bytes: int
    sample_rate: int


@dataclass
class Storm:
    """What happened so far."""

    started: int = 0
    finished: int = 0
    killed: int = 0
    failures: int = 0
    hangs: int = 0
    shards_looked_at: int = 0
    wrong_shards: int = 0
    most_bytes: int = 0


@dataclass
class Child:
    """A process that streams, and when it is to be killed."""

    process: ForkProcess
    kill_at: float
    began: float
    sent: bool = False


def main() -> int:
    args = _arguments()
    fsspec.register_implementation("storm", SlowFolder)
    dataset = args.dataset or _make_dataset(args.work)
    cache = args.work / "storm-cache"
    shutil.rmtree(cache, ignore_errors=True)
    digests = {p.name: sha256(p.read_bytes()).hexdigest() for p in dataset.glob("*.tar")}
    sizes = [p.stat().st_size for p in dataset.glob("*.tar")]
    # what all hold open at once is not evicted: two shards each
    limit = max(sum(sizes) * 3 // 4, 2 * args.processes * max(sizes))
    rate = json.loads((dataset / "manifest.json").read_text())["options"]["sample_rate"]
    task = Task(f"storm://{dataset.resolve()}", cache, limit, rate)
    storm = _rage(task, digests, args)
    last = _start(task, epochs=1, mode="raw")
    last.join(10 * _HANGS_S)
    storm.failures += last.exitcode != 0
    _look(cache, digests, storm)
    found = {
        "limit_bytes": limit,
        **storm.__dict__,
        "parts_left": len(list(cache.glob("*/*.part"))),
        "drafts_left": len(list(cache.glob("*/.*.draft"))),
    }
    report = {
        "machine": describe("torch", "numpy"),
        "command": command("benchmarks/cache_storm.py", args, dataset="DATASET"),
        "measure": "One run",
        **found,
        "tables": [facts("Processes of one cache", found)],
        "notes": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(found)
    return int(bool(storm.failures or storm.hangs or storm.wrong_shards))


def _rage(task: Task, digests: dict[str, str], args: argparse.Namespace) -> Storm:
    """Keep so many processes running, killing about half of them."""
    storm, dice, children = Storm(), random.Random(args.seed), list[Child]()
    begin, end = time.monotonic(), time.monotonic() + args.seconds
    tqdm.monitor_interval = 0  # a thread, which a fork would lose
    with tqdm(total=round(args.seconds), unit="s", disable=None) as bar:
        while children or time.monotonic() < end:
            while len(children) < args.processes and time.monotonic() < end:
                mode = dice.choice(("raw", "raw", "decoded"))
                process, now = _start(task, epochs=dice.randint(1, 3), mode=mode), time.monotonic()
                children.append(Child(process, now + dice.uniform(0.1, args.longest_s), now))
                storm.started += 1
            time.sleep(0.05)
            children = [child for child in children if not _is_over(child, storm, dice)]
            _look(task.cache, digests, storm)
            bar.update(min(round(args.seconds), int(time.monotonic() - begin)) - bar.n)
    return storm


def _start(task: Task, *, epochs: int, mode: str) -> ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=_stream, args=(task, epochs, mode))
    process.start()
    return process


def _stream(task: Task, epochs: int, mode: Any) -> None:
    """Read some epochs whole; what a child does."""
    transfer.CHUNK_BYTES = 1 << 16
    with make_pipeline(
        task.url,
        cache_dir=task.cache,
        cache_bytes=task.limit_bytes,
        cache=mode,
        sample_rate=task.sample_rate,
        clip_seconds=0.5,
        batch_size=4,
        shuffle=8,
        prefetch=1,
        num_workers=1,
        drop_last=False,
    ) as pipe:
        for _ in range(epochs):
            keys = [key for batch in pipe for key in batch["__key__"] if key]
            assert len(keys) == len(set(keys)) > 0, "a sample came twice"


def _is_over(child: Child, storm: Storm, dice: random.Random) -> bool:
    """Kill a child whose time has come; whether it has ended."""
    now, process = time.monotonic(), child.process
    if process.is_alive():
        if now > child.kill_at and not child.sent:
            assert process.pid is not None
            os.kill(process.pid, dice.choice(_SIGNALS))
            child.sent = True
        if now < (child.kill_at if child.sent else child.began) + _HANGS_S:
            return False
        storm.hangs += 1
        process.kill()
    process.join()
    if child.sent:
        storm.killed += 1
    elif process.exitcode:
        storm.failures += 1
    else:
        storm.finished += 1
    return True


def _look(cache: Path, digests: dict[str, str], storm: Storm) -> None:
    """Compare what is in the cache with its source, and note how much there is."""
    size = 0
    for path in (*cache.glob("*/*.tar"), *cache.glob("*/*.part")):
        try:
            size += path.stat().st_size
            if path.suffix == ".tar" and "-decoded-" not in path.parent.name:
                storm.shards_looked_at += 1
                found = sha256(path.read_bytes()).hexdigest()
                storm.wrong_shards += found != digests[path.name]
        except FileNotFoundError:  # evicted just now
            continue
    storm.most_bytes = max(storm.most_bytes, size)


def _make_dataset(work: Path) -> Path:
    dataset = work / "storm-shards"
    if not (dataset / "manifest.json").exists():
        annotations = write_corpus(work / "storm-corpus", pieces=10)
        build(annotations, str(dataset), options=Options(shard_bytes=600_000), progress=False)
    return dataset


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/storm"))
    parser.add_argument("--out", type=Path, default=Path("build/cache_storm.json"))
    parser.add_argument("--dataset", type=Path, help="a packed dataset, instead of making one")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--longest-s", type=float, default=5.0, help="before a process is killed")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
