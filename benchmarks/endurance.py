"""Memory over many epochs: what the process holds at the end against what it held at epoch 5.

    python benchmarks/endurance.py --out build/endurance.json

Counts RssAnon + RssShmem: what the process made itself, not the pages of files that the kernel
keeps for everybody. Once with raw FLAC shards, once with decoded ones, each in a process of its
own. The loop does what training does: it pauses, in the first epochs long enough for all batches
that may be ahead to come, and every tenth epoch is broken off.
"""

import argparse
import json
import multiprocessing
import time
from itertools import islice
from pathlib import Path
from typing import Any

from clips import make_dataset
from machine import describe
from memory import held_bytes

from loader import make_pipeline

SETTLED = 5  # epochs after which everything that is kept for good is there
BROKEN_OFF = 3  # the last figure of the epochs that are
LONG_PAUSE_S, PAUSE_S = 1.0, 0.1


def main() -> None:
    args = _arguments()
    dataset = args.dataset or make_dataset(args.work, args.clips)
    memory = {}
    for cache in ("raw", "decoded"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[cache] = pool.apply(stream, (dataset, cache, args.work, args.epochs))
    report = {
        "machine": describe("torch", "numpy", "miniaudio", "symusic"),
        "command": f"python benchmarks/endurance.py --clips {args.clips} --epochs {args.epochs}",
        "bytes_by_epoch": memory,
        "ratios": {cache: round(found[-1] / found[SETTLED], 4) for cache, found in memory.items()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    for cache, found in memory.items():
        print(
            f"{cache}: {found[SETTLED] / 1e6:.1f} MB after epoch {SETTLED}, "
            f"{found[-1] / 1e6:.1f} MB after epoch {args.epochs}, "
            f"ratio {report['ratios'][cache]:.3f}, most {max(found) / 1e6:.1f} MB"
        )


def stream(dataset: Path, cache: str, work: Path, epochs: int) -> list[int]:
    """Bytes that this process holds before the first epoch and after each."""
    options: dict[str, Any] = {"cache": cache, "num_workers": 2}
    if cache == "decoded":
        options |= {"cache_dir": work / "cache", "cache_bytes": 10**10}
    held = [held_bytes()]
    with make_pipeline(dataset, **options) as pipe:
        for epoch in range(1, epochs + 1):
            enough = 12 if epoch % 10 == BROKEN_OFF else None
            for number, _ in enumerate(islice(iter(pipe), enough)):
                if number == 10:
                    time.sleep(LONG_PAUSE_S if epoch <= SETTLED else PAUSE_S)
            held.append(held_bytes())
    return held


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/streaming"))
    parser.add_argument("--out", type=Path, default=Path("build/endurance.json"))
    parser.add_argument("--dataset", type=Path, help="a packed dataset, instead of making one")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    main()
