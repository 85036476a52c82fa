"""PercePiano by four folds: three modes against the mean, a linear model and what was published.

    python benchmarks/percepiano.py --data PERCEPIANO --work build/percepiano \\
        --out benchmarks/results/percepiano.json

PERCEPIANO is a folder with ``annotations.jsonl`` (1,188 lines of ``midi_path``, ``piece`` and 19
ratings) and the MIDI files. Audio is rendered from them. No fold shares an excerpt with another
(``--folds excerpt``, as published) or, harder, no piece (``--folds piece``: of 20 pieces one is
half of the data). Of what is trained on, some excerpts or pieces validate: they choose the epoch
of each model and the penalty of the linear one. The fold itself is looked at once.

Each fold and mode leaves its figures under ``--work``; the same command goes on after the last, and
within a training where it stopped.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from folds import FOLDS, Kind, distinct, splits
from machine import code, command, describe
from notes import Floats, features, ridge
from tables import markdown

from shards.notes import read_notes
from trainer.command import Command
from trainer.models import Mode, Statistics
from trainer.scores import figures

MODES: tuple[Mode, ...] = ("midi", "fusion", "audio")
FIGURES = ("r2", "pearson", "spearman", "mae")
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
# R2 on folds by excerpt, of who measured it and how.
PUBLISHED = {
    "Bi-LSTM on MIDI (Park et al., 2024)": 0.185,
    "Bi-LSTM with score alignment and hierarchical attention on MIDI (Park et al., 2024)": 0.397,
    "audio foundation model MuQ on audio of Pianoteq (arXiv 2601.19029)": 0.537,
}
DIFFERS = (
    "Published figures are of 1,202 performances, on one test set of 15% of the excerpts for four "
    "models. Score alignment reads the printed music, MuQ was trained on other music before; "
    "models here see neither, and audio is rendered from a SoundFont, one timbre at all "
    "velocities. Excerpts of 16 bars hold music of those of 8, here as there."
)
Result = dict[str, Any]


def main() -> None:
    args = _arguments()
    rendered = args.work / "rendered"
    _packer("render", args.data / "annotations.jsonl", "--out", rendered)
    lines = [json.loads(x) for x in (rendered / "annotations.jsonl").read_text().splitlines()]
    lines = distinct(lines, [_digest(rendered / line["midi_path"]) for line in lines])
    results = [
        result
        for kind in args.folds
        for fold in range(args.fold_count)
        for result in _fold(kind, fold, lines, args)
    ]
    report = {
        "machine": describe("torch", "lightning", "symusic"),
        "command": command("benchmarks/percepiano.py", args, data="PERCEPIANO"),
        "config": args.config.read_text(),
        "epochs": args.epochs,
        "performances": len(lines),
        "folds": results,
        "tables": [table(means(results))],
        "notes": [DIFFERS],
        "measure": "Means over the folds",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the PercePiano folder")
    parser.add_argument("--work", type=Path, default=Path("build/percepiano"))
    parser.add_argument("--out", type=Path, default=Path("build/percepiano/report.json"))
    parser.add_argument("--config", type=Path, default=Path("configs/percepiano.yaml"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--folds", nargs="+", choices=get_args(Kind), default=get_args(Kind))
    parser.add_argument("--fold-count", type=int, default=FOLDS, help="the first so many alone")
    return parser.parse_args()


def _digest(path: Path) -> str:
    return hashlib.sha256(read_notes(path.read_bytes()).table.tobytes()).hexdigest()


def _packer(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "packer", *map(str, arguments)], check=True)


def _fold(kind: Kind, fold: int, lines: list[dict[str, Any]], args: Any) -> list[Result]:
    """Figures of baselines and modes on one fold; its shards are gone afterwards."""
    of = splits(lines, kind, fold)
    found = _baselines(lines, of, args.work / "rendered")
    results = [{"folds": kind, "fold": fold, "model": name, **f} for name, f in found.items()]
    shards = args.work / f"shards-{kind}-{fold}"
    for mode in args.modes:
        results.append(_kept(kind, fold, mode, lines, of, shards, args))
    shutil.rmtree(shards, ignore_errors=True)
    return results


def _kept(
    kind: Kind, fold: int, mode: Mode, lines: Any, of: list[str], shards: Path, args: Any
) -> Result:
    """The result of an earlier call of the same code and config, or of a training now."""
    path = args.work / "results" / f"{kind}-{fold}-{mode}.json"
    asked = {"code": code(), "config": args.config.read_text(), "epochs": args.epochs}
    if path.exists():
        found = json.loads(path.read_text())
        if found["asked"] == asked:
            return dict(found["result"])
    if not shards.exists():
        _build(lines, of, shards, args.work)
    began = time.perf_counter()
    name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]  # what goes on is the same
    scores = _train(mode, shards, args.work / "runs" / f"{kind}-{fold}-{mode}-{name}", args)
    result = {"folds": kind, "fold": fold, "model": mode, **scores}
    result["seconds"] = round(time.perf_counter() - began, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"asked": asked, "result": result}, indent=1) + "\n")
    draft.replace(path)
    return result


def _build(lines: list[dict[str, Any]], of: list[str], shards: Path, work: Path) -> None:
    """The fold as shards with the splits train, val and test; complete or absent."""
    annotations = work / "rendered" / f"{shards.name}.jsonl"
    split = (json.dumps(line | {"split": s}) for line, s in zip(lines, of, strict=True))
    annotations.write_text("\n".join(split) + "\n")
    draft = shards.with_name(f"{shards.name}.part")
    # Two end in bars of nothing.
    options = ("--split-by", "split", "--tolerance", "4", "--name", "percepiano")
    _packer("build", annotations, "--out", draft, *options)
    draft.rename(shards)


def _train(mode: Mode, shards: Path, run: Path, args: Any) -> dict[str, float]:
    """Fit, and test the epoch that validated best."""
    common = ["--config", str(args.config), "--mode", mode, f"--data.shards={shards}"]
    common += [f"--out={run}", "--trainer.enable_progress_bar=false"]
    Command(["fit", *common, f"--trainer.max_epochs={args.epochs}"])
    (best,) = run.rglob("best.ckpt")
    metrics = Command(["test", *common, f"--ckpt_path={best}"]).trainer.callback_metrics
    return {name: float(metrics[f"test/{name}"]) for name in FIGURES}


def _baselines(
    lines: list[dict[str, Any]], of: list[str], root: Path
) -> dict[str, dict[str, float]]:
    """The mean of training, and a linear model of simple note features."""
    names = list(lines[0]["labels"])
    labels = np.array([[line["labels"][name] for name in names] for line in lines], dtype=float)
    x = np.array([features(root / line["midi_path"]) for line in lines])
    train, val, test = (np.array(of) == split for split in ("train", "val", "test"))
    statistics = {
        name: {"mean": float(column.mean()), "std": float(column.std())}
        for name, column in zip(names, labels[train].T, strict=True)
    }

    def error(penalty: float) -> float:
        predicted = ridge(x[train], labels[train], x[val], penalty=penalty)
        return float(np.square(predicted - labels[val]).mean())

    penalty = min(PENALTIES, key=error)
    linear = ridge(x[train], labels[train], x[test], penalty=penalty)
    mean = np.broadcast_to(labels[train].mean(axis=0), linear.shape)
    return {
        name: _scores(predicted, labels[test], statistics)
        for name, predicted in (("mean", mean), ("linear", linear))
    }


def _scores(predicted: Floats, labels: Floats, statistics: Statistics) -> dict[str, float]:
    """The trainer's own figures."""
    mean, std = (np.array([label[key] for label in statistics.values()]) for key in ("mean", "std"))
    ratings, wanted = (torch.from_numpy((x - mean) / std) for x in (predicted, labels))
    found = figures(ratings, wanted, dimensions=list(statistics), std=torch.from_numpy(std))
    return {name: float(found[name]) for name in FIGURES}


def means(results: list[Result]) -> list[Result]:
    """Mean over the folds, and the deviation of R2, by kind of folds and model."""
    rows = dict.fromkeys((r["folds"], r["model"]) for r in results)
    made = []
    for kind, model in rows:
        own = [r for r in results if (r["folds"], r["model"]) == (kind, model)]
        mean = {name: float(np.mean([r[name] for r in own])) for name in FIGURES}
        spread = float(np.std([r["r2"] for r in own]))
        seconds = sum(r.get("seconds", 0.0) for r in own)
        made.append({"folds": kind, "model": model, **mean, "r2_std": spread, "seconds": seconds})
    return made


def table(rows: list[Result]) -> dict[str, Any]:
    """All means as text, and the published figures below."""
    columns = ["folds by", "model", "R2", "Pearson", "Spearman", "MAE", "seconds"]
    cells = [
        [
            row["folds"],
            row["model"],
            f"{row['r2']:.3f} ± {row['r2_std']:.3f}",
            *(_number(row[name]) for name in ("pearson", "spearman")),
            f"{row['mae']:.4f}",
            f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]
    published = [["excerpt", name, f"{r2:.3f}"] for name, r2 in PUBLISHED.items()]
    title = "Means over the folds, and the deviation of R2 over them"
    return {"title": title, "columns": columns, "rows": cells + published}


def _number(value: float) -> str:
    """Of a correlation; that of a constant does not exist."""
    return "" if np.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    main()
