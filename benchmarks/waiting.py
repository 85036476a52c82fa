"""Share of a training step that is spent waiting for data, in three modes, from the cache.

    python benchmarks/waiting.py --shards build/percepiano/shards --out build/waiting.json

Trains configs/percepiano.yaml on shards that were staged into the cache before, as FLAC, and tells
of all steps after the first 20 how much of their time the loop was blocked in ``next()``, ends of
epochs included. Without ``--shards`` they are made pieces.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from machine import describe

from loader.stage import stage
from packer.build import build
from packer.corpus import write_corpus
from packer.options import Options
from trainer.command import Command
from trainer.telemetry import StepTime, Telemetry, together

MODES = ("audio", "midi", "fusion")
SKIPPED = 20
GOAL = 0.02


class Steps(Callback):
    """Keeps what every step took; comes behind the telemetry."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.found: list[StepTime] = []
        self._telemetry = telemetry

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.found.append(self._telemetry.last)


def main() -> None:
    args = _arguments()
    shards = args.shards or make_shards(args.work)
    cache = args.work / "cache"
    for split in ("train", "val"):
        stage(f"{shards}/{split}", cache_dir=cache)
    found = {}
    for mode in MODES:
        steps = train(mode, shards, cache, args.steps)[SKIPPED:]
        found[mode] = measured(steps)
        print(f"{mode}: {found[mode]}", flush=True)
    report = make_report(found, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


def make_shards(work: Path) -> str:
    """Made pieces, once: some 960 clips to train on."""
    shards = work / "shards"
    if not (shards / "train" / "manifest.json").exists():
        shutil.rmtree(shards, ignore_errors=True)
        annotations = write_corpus(work / "corpus", pieces=200)
        options = Options(split={"train": 0.8, "val": 0.2}, group_by="piece")
        build(annotations, str(shards), options=options)
    return str(shards)


def train(mode: str, shards: str, cache: Path, steps: int) -> list[StepTime]:
    """What each of so many steps took, shards through the cache."""
    arguments = [
        "--config=configs/percepiano.yaml",
        f"--mode={mode}",
        f"--data.shards={shards}",
        f"--data.cache_dir={cache}",
        "--data.cache_mount=true",
        "--data.dimensions=null",  # those that the shards have: PercePiano's are 19
        f"--trainer.max_steps={steps}",
        "--trainer.limit_val_batches=0",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.enable_model_summary=false",
        "--trainer.enable_progress_bar=false",
    ]
    command = Command(arguments, name="waiting", run=False)
    telemetry = Telemetry()
    kept = Steps(telemetry)
    command.trainer.callbacks += [telemetry, kept]
    command.trainer.fit(command.model, command.datamodule)
    return kept.found


def measured(steps: list[StepTime]) -> dict[str, float]:
    """What a number of steps say together."""
    all_ = together(steps)
    return {
        "waiting": round(all_.waiting, 5),
        "steps": len(steps),
        "step_ms": round(1e3 * statistics.median(step.seconds for step in steps), 1),
        "waited_ms": round(1e3 * statistics.median(step.waited_s for step in steps), 3),
        "samples_per_s": round(all_.samples_per_s, 1),
    }


def make_report(found: dict[str, dict[str, float]], args: argparse.Namespace) -> dict[str, Any]:
    rows = [
        [
            mode,
            f"{facts['waiting']:.2%}",
            f"{facts['waited_ms']:.2f} of {facts['step_ms']:.0f} ms",
            f"{facts['samples_per_s']:.0f}",
        ]
        for mode, facts in found.items()
    ]
    return {
        "machine": describe("torch", "lightning", "miniaudio", "symusic"),
        "command": f"python benchmarks/waiting.py --steps {args.steps}"
        + (" --shards PERCEPIANO-SHARDS" if args.shards else ""),
        "measure": "One run",
        "waiting": found,
        "goal": GOAL,
        "tables": [
            {
                "title": f"Waiting for data after the first {SKIPPED} steps, FLAC from the cache",
                "columns": ["mode", "share of the time", "median step", "samples/s"],
                "rows": rows,
            }
        ],
        "notes": [f"configs/percepiano.yaml, batches of 16, on a CPU. The goal is {GOAL:.0%}."],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shards", help="folder of train/ and val/, such as PercePiano's")
    add("--work", type=Path, default=Path("build/waiting"))
    add("--out", type=Path, default=Path("build/waiting.json"))
    add("--steps", type=int, default=140, help="in each mode")
    args = parser.parse_args()
    if args.steps <= SKIPPED:
        parser.error(f"--steps must be more than the {SKIPPED} that are not counted")
    return args


if __name__ == "__main__":
    main()
