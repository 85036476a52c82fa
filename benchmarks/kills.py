"""Kills a run with SIGKILL at random moments, and compares how it ends with one left alone.

    python benchmarks/kills.py --kills 10 --out build/kills.json

Both train the demo's corpus (made if it is not there) in processes of their own. Compared are all
weights, the optimiser's state and the generators', bit for bit, the figures, and the log of keys.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from machine import command, describe
from tables import facts
from tqdm import tqdm

_PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "run", "PianoData", "global_step")


def main() -> int:
    args = _arguments()
    shards = args.work / "shards"
    if not shards.exists():
        _make_shards(args.work)
    for run in ("whole", "killed"):
        shutil.rmtree(args.work / run, ignore_errors=True)
    began = time.perf_counter()
    _finish(_fit(args, "whole"))
    whole_s = time.perf_counter() - began
    moments = _kill(args)
    if len(moments) < args.kills:
        print(f"{args.kills - len(moments)} came when the run had ended: try more --epochs")
    began = time.perf_counter()
    _finish(_fit(args, "killed"))
    found = {
        "whole_s": round(whole_s, 1),
        "last_part_s": round(time.perf_counter() - began, 1),
        "batches": _saved(args.work / "whole"),
        "killed_after_batches": moments,
        **_compare(args.work / "whole", args.work / "killed"),
    }
    report = {
        "machine": describe("lightning", "torch"),
        "command": command("benchmarks/kills.py", args),
        "measure": "One run",
        **found,
        "tables": [facts("A run that was killed, beside one left alone", found)],
        "notes": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0 if found["equal"] and found["each_sample_once_an_epoch"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/kills"))
    parser.add_argument("--out", type=Path, default=Path("build/kills.json"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--mode", default="fusion")
    parser.add_argument("--minutes", type=float, default=0.01, help="between two checkpoints")
    return parser.parse_args()


def _make_shards(work: Path) -> None:
    packer = [sys.executable, "-m", "packer"]
    subprocess.run([*packer, "sample", str(work / "corpus")], check=True)
    split = ["--split", "train=0.75,val=0.25", "--group-by", "piece", "--shard-size", "4MB"]
    annotations = str(work / "corpus" / "annotations.jsonl")
    subprocess.run(
        [*packer, "build", annotations, "--out", str(work / "shards"), *split], check=True
    )


def _fit(args: argparse.Namespace, run: str) -> subprocess.Popen[bytes]:
    options = {
        "mode": args.mode,
        "out": args.work / run,
        "data.shards": args.work / "shards",
        "model.dropout": 0.1,  # so that the generators matter
        "trainer.max_epochs": args.epochs,
        "trainer.enable_progress_bar": "false",
        "checkpoint_minutes": args.minutes,
    }
    command = [sys.executable, "-m", "trainer", "fit", "--config", "configs/demo.yaml"]
    with (args.work / f"{run}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            stdout=log,
            stderr=log,
        )


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        sys.exit(f"the run ended with status {process.returncode}: see the logs beside it")


def _kill(args: argparse.Namespace) -> list[int]:
    """Start the run again and again; batches that were saved each time that it was killed.

    The moments are drawn over the batches of the whole run, and within the time between two
    checkpoints: waiting for the clock alone, nearly all would fall into the imports.
    """
    rng = random.Random(args.seed)
    total, moments = _saved(args.work / "whole"), []
    for least in tqdm(sorted(rng.uniform(0, total) for _ in range(args.kills)), desc="killing"):
        process = _fit(args, "killed")
        while process.poll() is None and _saved(args.work / "killed") < least - 1:
            time.sleep(0.02)
        try:
            process.wait(rng.uniform(0, 1.5 * 60 * args.minutes))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(_saved(args.work / "killed"))
    return moments


def _saved(run: Path) -> int:
    """Batches before the last checkpoint of a run."""
    state = run / "run.json"
    return int(json.loads(state.read_text())["batches"]) if state.exists() else 0


def _compare(whole: Path, killed: Path) -> dict[str, Any]:
    one, other = (_load(run / "checkpoints" / "last.ckpt") for run in (whole, killed))
    different = [part for part in _PARTS if not _is_equal(one[part], other[part])]
    for name in ("keys.jsonl", "metrics.json"):
        if (whole / name).read_bytes() != (killed / name).read_bytes():
            different.append(name)
    epochs: dict[int, Counter[str]] = {}
    for text in (killed / "keys.jsonl").read_text().splitlines():
        line = json.loads(text)
        epochs.setdefault(line["epoch"], Counter()).update(line["keys"])
    counts = [sorted(set(counter.values())) for counter in epochs.values()]
    return {
        "equal": not different,
        "different": different,
        "epochs": len(epochs),
        "samples_an_epoch": [len(counter) for counter in epochs.values()],
        "each_sample_once_an_epoch": all(times == [1] for times in counts),
    }


def _load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def _is_equal(one: Any, other: Any) -> bool:
    """The same to the bit: tensors, and what holds them."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(one == other)


if __name__ == "__main__":
    sys.exit(main())
