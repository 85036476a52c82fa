"""Training from a mounted Drive: the user's own table, by every way that there is.

    python -m benchmarks.drive --out benchmarks/results/drive.json       about 15 minutes
    python -m benchmarks.drive --quick --out build/drive/quick.json      about 4
    python -m benchmarks.drive --only 'this project, raw' webdataset     some of them

Each way runs three experiments of five epochs, each in a process of its own; what it keeps on the
local disk stays between them, and nothing else does. The mount is ``benchmarks/slowfs.py``: FUSE,
100 ms a request, one link of 10 MB/s; every way has a mount of its own, so that the kernel caches
nothing for it. Counted is the data alone, from opening the loader to each epoch's last batch: no
training (--step-s adds a fixed pause a batch), no imports. ``file by file`` and ``files copied
first`` read a part of the samples, and their times are scaled up to all: whole, they take hours.
Then the shards are read once more, into empty caches, from a mount on which every 400th read
fails (Errno 5, as on Drive): who goes on. Where FUSE is missing, an fsspec file system of the same
latency and bandwidth stands in, and those that need a mounted folder are listed as such.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.clips import make_dataset
from benchmarks.drive.experiments import Experiments
from benchmarks.drive.report import report
from benchmarks.drive.ways import WAYS
from benchmarks.machine import describe
from benchmarks.peers.run import Run
from benchmarks.tables import markdown


def main() -> int:
    args = _arguments()
    dataset = make_dataset(args.work, args.clips, shard_mb=args.shard_mb)
    run = Run(args.work, args.venvs, dataset, rounds=1, seconds=1.0)
    experiments = Experiments(run, args.part, args.experiments, args.epochs, args.step_s)
    chosen = [way for way in WAYS if not args.only or any(n in way.name for n in args.only)]
    results = {way.name: experiments.of(way) for way in chosen}
    for way in chosen:
        if not way.partly:
            results[way.name]["failing"] = experiments.failing(way)
    command = f"python -m benchmarks.drive --clips {args.clips} --part {args.part}"
    command += f" --experiments {args.experiments} --epochs {args.epochs} --step-s {args.step_s:g}"
    machine = describe("torch", "miniaudio", "symusic", "mfusepy")
    found = report(experiments, results, machine=machine, command=command)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(markdown(found) + "\n")
    print(markdown(found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("build/drive"))
    parser.add_argument("--venvs", type=Path, default=Path("build/venvs"))
    parser.add_argument("--out", type=Path, default=Path("build/drive/drive.json"))
    parser.add_argument("--clips", type=int, default=960)
    parser.add_argument("--shard-mb", type=int, default=14)
    parser.add_argument("--part", type=int, default=48, help="samples read file by file")
    parser.add_argument("--experiments", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--step-s", type=float, default=0.0, help="pause a batch, for training")
    parser.add_argument("--only", nargs="*", default=[], metavar="WAY")
    parser.add_argument("--quick", action="store_true", help="320 clips, 16 of them as files")
    args = parser.parse_args()
    if args.quick:
        args.clips, args.part = 320, 16
    return args


if __name__ == "__main__":
    sys.exit(main())
