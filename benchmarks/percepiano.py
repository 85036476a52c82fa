"""PercePiano end to end: render, build, verify, train in three modes, with the time of each step.

    python benchmarks/percepiano.py --data PERCEPIANO --work build/percepiano --epochs 20

PERCEPIANO is a folder with ``annotations.jsonl`` (1,188 lines of ``midi_path``, ``piece`` and 19
ratings) and the MIDI files. Two kinds of unknown music are told apart: performances held out of
the training pieces (one in five), and pieces that no model has heard (``--split`` by piece).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import describe

from trainer.command import Command

MODES = ("audio", "midi", "fusion")
FIGURES = ("mse", "mse_mean_baseline", "mae", "mae_mean_baseline", "pearson", "r2")


def main() -> None:
    args = _arguments()
    seconds: dict[str, float] = {}
    rendered, pieces, heldout = (args.work / name for name in ("rendered", "shards", "heldout"))
    with _timed(seconds, "render"):
        _packer("render", args.data / "annotations.jsonl", "--out", rendered)
    split = ("--split", "train=0.8,val=0.1,test=0.1", "--group-by", "piece")
    with _timed(seconds, "build"):
        _packer("build", rendered / "annotations.jsonl", "--out", pieces, "--name", "p", *split)
    with _timed(seconds, "verify"):
        _packer("verify", pieces)
    known = _training_pieces(rendered / "annotations.jsonl", pieces, rendered / "known.jsonl")
    with _timed(seconds, "build held-out"):
        _packer("build", known, "--out", heldout, "--split", "train=0.8,val=0.2")
    results = {mode: _train(mode, heldout, pieces, args, seconds) for mode in args.modes}
    report = {
        "machine": describe("torch", "lightning", "symusic"),
        "command": f"python benchmarks/percepiano.py --epochs {args.epochs}",
        "seconds": seconds,
        "results": results,
    }
    (args.work / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(_table(results, seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the PercePiano folder")
    parser.add_argument("--work", type=Path, default=Path("build/percepiano"))
    parser.add_argument("--config", default="configs/percepiano.yaml")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    return parser.parse_args()


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - began, 1)


def _packer(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "packer", *map(str, arguments)], check=True)


def _training_pieces(annotations: Path, pieces: Path, out: Path) -> Path:
    """The lines of all pieces that the split by piece gave to training."""
    lines = annotations.read_text().splitlines()
    unheard = {key for split in ("val", "test") for key in _keys(pieces / split)}
    kept = [line for line in lines if _key(json.loads(line)) not in unheard]
    out.write_text("\n".join(kept) + "\n")
    return out


def _keys(dataset: Path) -> set[str]:
    from loader import make_pipeline

    with make_pipeline(dataset, fields=("json",), shuffle=0, drop_last=False) as pipe:
        return {record["audio_path"] for batch in pipe for record in batch["json"] if record}


def _key(line: dict[str, Any]) -> str:
    return str(line["audio_path"])


def _train(
    mode: str, heldout: Path, pieces: Path, args: argparse.Namespace, seconds: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Fit one mode; figures on held-out performances and on unheard pieces."""
    logs = args.work / "runs" / mode
    common = ["--config", args.config, "--mode", mode, f"--data.shards={heldout}"]
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={logs}"]
    with _timed(seconds, f"fit {mode}"):
        fit = _trainer("fit", *common, *quiet, f"--trainer.max_epochs={args.epochs}")
    best = fit.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    found = {}
    for name, url in (
        ("held-out performances", heldout / "val"),
        ("unheard pieces, val", pieces / "val"),
        ("unheard pieces, test", pieces / "test"),
    ):
        there = ["--ckpt_path", best, f"--data.val_shards={url}"]
        run = _trainer("validate", *common, *quiet, *there)
        metrics = run.trainer.callback_metrics
        found[name] = {figure: float(metrics[f"val/{figure}"]) for figure in FIGURES}
    return found


def _trainer(*arguments: str) -> Command:
    """``python -m trainer`` in this process, for its figures."""
    return Command(list(arguments))


def _table(results: dict[str, dict[str, dict[str, float]]], seconds: dict[str, float]) -> str:
    lines = ["", "| mode | on | " + " | ".join(FIGURES) + " |", "| --- " * (len(FIGURES) + 2) + "|"]
    for mode, found in results.items():
        for name, figures in found.items():
            values = " | ".join(f"{figures[figure]:.4f}" for figure in FIGURES)
            lines.append(f"| {mode} | {name} | {values} |")
    lines += ["", "| step | seconds |", "| --- | --- |"]
    return "\n".join(lines + [f"| {step} | {spent:.1f} |" for step, spent in seconds.items()])


if __name__ == "__main__":
    main()
