"""report.html: all there is to see of a run in one file, that needs nothing but itself."""

import html
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from loader.disk import write_whole
from trainer.data import PianoData
from trainer.disk import attempt
from trainer.drawing import Series, as_svg, curves
from trainer.outcomes import Outcome, Outcomes, scatters
from trainer.parts import CONFIG, REPORT
from trainer.stopping import Stopped

_FURTHEST = 12
_FIGURES = ("r2", "pearson", "spearman", "mae")
_PACKAGES = ("torch", "lightning", "clavier-data")
_UNKNOWN = "–"

Epoch = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """What a report is made of.

    Attributes:
        epochs: figures by name, of each epoch; its number is ``epoch``.
        outcome: of the best validation pass; None where there was none.
        config: as YAML.
        machine: what it was trained on, data and machine, by name.
    """

    title: str
    epochs: Sequence[Epoch]
    outcome: Outcome | None
    config: str
    machine: Mapping[str, str]


class Report(Callback):
    """Keeps the figures of all epochs, and writes the report when a fit ends or is interrupted."""

    def __init__(self, outcomes: Outcomes) -> None:
        """Use the passes that another callback keeps."""
        self._outcomes = outcomes
        self._epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._epochs.append(figures | {"epoch": float(trainer.current_epoch)})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt | Stopped):
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epochs = list(state_dict["epochs"])

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or not self._epochs:
            return
        folder = Path(trainer.default_root_dir)
        run = Run(
            title=folder.absolute().name,
            epochs=self._epochs,
            outcome=self._outcomes.best,
            config=_config(trainer),
            machine=describe_data(trainer) | describe_machine(trainer.strategy.root_device),
        )
        with attempt(folder / REPORT):
            write_whole(folder / REPORT, page(run).encode())


def page(run: Run) -> str:
    """The report of a run."""
    folder = files("trainer") / "page"
    best = best_epoch(run.epochs)
    values = {
        "title": html.escape(run.title),
        "style": (folder / "report.css").read_text("utf-8"),
        "subtitle": _subtitle(run, best),
        "tiles": "".join(_tile(name, text) for name, text in _tiles(run.epochs, best)),
        "curves": "".join(_figure(as_svg(one)) for one in _curves(run.epochs)),
        "scored": f"Of epoch {best['epoch']:.0f}, the best by validation loss.",
        "scores": _scores(best, run.outcome),
        "scatters": _scatters(run.outcome),
        "furthest": _furthest(run.outcome),
        "machine": _table(("what", "found"), run.machine.items(), text=True),
        "config": html.escape(run.config),
    }
    return Template((folder / "report.html").read_text("utf-8")).substitute(values)


def best_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """That of the lowest validation loss; the last where nothing was validated."""
    validated = [one for one in epochs if math.isfinite(one.get("val/loss", math.nan))]
    return min(validated, key=lambda one: one["val/loss"]) if validated else epochs[-1]


def describe_data(trainer: Trainer) -> dict[str, str]:
    """Where the splits lie, and how much the training one holds."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, PianoData):
        return {}
    manifest = data.manifest
    seconds = manifest.duration_s
    length = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    held = f"{manifest.samples} samples, {length}, in {len(manifest.shards)} shards"
    return {"training data": f"{held}, at {data.url('train')}", "validation data": data.url("val")}


def describe_machine(device: torch.device) -> dict[str, str]:
    """Processor, device and versions."""
    name = "CPU"
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        name = f"{about.name}, {about.total_memory / 1e9:.0f} GB"
    return {
        "device": name,
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{package} {version(package)}" for package in _PACKAGES),
    }


def _config(trainer: Trainer) -> str:
    """The config that lies in the run's folder."""
    path = Path(trainer.default_root_dir) / CONFIG
    return path.read_text("utf-8") if path.exists() else "not kept"


def _subtitle(run: Run, best: Epoch) -> str:
    samples = len(run.outcome.keys) if run.outcome else 0
    epochs = "1 epoch" if len(run.epochs) == 1 else f"{len(run.epochs)} epochs"
    return (
        f"{epochs}, best at {best['epoch']:.0f}; "
        f"{samples} validation samples; on {html.escape(run.machine['device'])}"
    )


def _tiles(epochs: Sequence[Epoch], best: Epoch) -> Iterable[tuple[str, str]]:
    baseline = _number(best, "val/mse_mean_baseline")
    yield f"validation loss ({baseline} at the mean)", _number(best, "val/loss")
    yield "R², mean of dimensions", _number(best, "val/r2")
    yield "Pearson, mean", _number(best, "val/pearson")
    yield "samples/s, last epoch", _rate(epochs[-1])
    yield "waiting for data", _number(epochs[-1], "data/epoch_waiting", ".1%")


def _curves(epochs: Sequence[Epoch]) -> Iterable[Any]:
    baseline = epochs[-1].get("val/mse_mean_baseline")
    level = None if baseline is None else ("rating at the mean", baseline)
    losses = {"training": "train/loss", "validation": "val/loss"}
    means = {"R²": "val/r2", "Pearson": "val/pearson", "Spearman": "val/spearman"}
    waiting, rate = {"waiting": "data/epoch_waiting"}, {"rate": "data/epoch_samples_per_s"}
    for names, title, options in (
        (losses, "loss", {"level": level}),
        (means, "validation, mean of dimensions", {}),
        (waiting, "share of the time spent waiting for data", {"percent": True}),
        (rate, "samples/s", {}),
    ):
        if series := _series(epochs, names):
            yield curves(series, title=title, **options)


def _series(epochs: Sequence[Epoch], names: Mapping[str, str]) -> Series:
    numbers = [one["epoch"] for one in epochs]
    found = {label: [one.get(name, math.nan) for one in epochs] for label, name in names.items()}
    return {
        label: (numbers, values)
        for label, values in found.items()
        if any(math.isfinite(value) for value in values)
    }


def _scores(best: Epoch, outcome: Outcome | None) -> str:
    dimensions = outcome.dimensions if outcome else ()
    rows = [
        (name, *(_number(best, f"val/{figure}/{name}") for figure in _FIGURES))
        for name in dimensions
    ]
    mean = ("mean", *(_number(best, f"val/{figure}") for figure in _FIGURES))
    return _table(("dimension", "R²", "Pearson", "Spearman", "MAE"), [*rows, mean], last="mean")


def _scatters(outcome: Outcome | None) -> str:
    if outcome is None:
        return "<p>Nothing was validated.</p>"
    return "".join(_figure(as_svg(one)) for one in scatters(outcome).values())


def _furthest(outcome: Outcome | None) -> str:
    found = outcome.furthest(_FURTHEST) if outcome else ()
    rows = [(key, name, f"{rating:.3g}", f"{label:.3g}") for key, name, rating, label in found]
    return _table(("sample", "dimension", "rating", "label"), rows)


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, last: str = "", text: bool = False
) -> str:
    """Rows of anybody's text; ``last`` is the class of the last one."""
    body = [[html.escape(cell) for cell in row] for row in rows]
    left = ' class="text"' if text else ""
    lines = [f"<td{left}>" + f"</td><td{left}>".join(row) + "</td>" for row in body]
    marked = [f"<tr>{line}</tr>" for line in lines]
    if last and lines:
        marked[-1] = f'<tr class="{last}">{lines[-1]}</tr>'
    head = "".join(f"<th{left}>{html.escape(one)}</th>" for one in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(marked)}</tbody></table>"


def _tile(name: str, text: str) -> str:
    return f'<div class="tile"><b>{html.escape(text)}</b><span>{html.escape(name)}</span></div>'


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _rate(figures: Epoch) -> str:
    """Samples a second; of few, the tenths count."""
    name = "data/epoch_samples_per_s"
    return _number(figures, name, ".0f" if figures.get(name, 0.0) >= 100 else ".1f")


def _number(figures: Epoch, name: str, form: str = ".3f") -> str:
    value = figures.get(name, math.nan)
    return format(value, form) if math.isfinite(value) else _UNKNOWN
