"""The figures of a run, epoch by epoch, and what became of them in the end."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from loader.disk import write_whole
from trainer.disk import attempt
from trainer.parts import FIGURES
from trainer.telemetry import PREFIX

Figures = dict[str, float | None]


class History(Callback):
    """Keeps the figures before training, of the first, the last and the best epoch.

    They are written to ``metrics.json`` in the run's folder after every epoch, and summed up
    in one line at the end.
    """

    def __init__(self) -> None:
        self.epochs: dict[str, Figures] = {}

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation pass before the first step; a resumed run has none."""
        self.epochs["before"] = _figures(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        figures = _figures(trainer.callback_metrics) | {"epoch": trainer.current_epoch}
        self.epochs = updated(self.epochs, figures)
        path = Path(trainer.default_root_dir) / FIGURES
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with attempt(path):
                _write(path, self.epochs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and "last" in self.epochs:
            print(summary(self.epochs, folder=trainer.default_root_dir), flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]


def updated(epochs: Mapping[str, Figures], figures: Figures) -> dict[str, Figures]:
    """The history with one more epoch; the best has the lowest validation loss."""
    best = epochs.get("best", figures)
    if _loss(figures) < _loss(best):
        best = figures
    first = epochs.get("first", figures)
    return {**epochs, "first": first, "last": figures, "best": best}


def summary(epochs: Mapping[str, Figures], *, folder: str) -> str:
    """One line: losses before, of the first and last epoch, beside rating all at the mean."""
    first, last, best = epochs["first"], epochs["last"], epochs["best"]
    before = ""
    if "before" in epochs:  # not where trainer.num_sanity_val_steps is 0
        before = f"before training val/loss {_shown(epochs['before'].get('val/loss'))}; "

    def change(name: str) -> str:
        return f"{name} {_shown(first.get(name))} -> {_shown(last.get(name))}"

    mean, where = _shown(last.get("val/mse_mean_baseline")), f"{folder}/{FIGURES}"
    return (
        f"{before}from the first epoch to the last {change('train/loss')}, {change('val/loss')} "
        f"(best {_shown(best.get('val/loss'))} in epoch {best['epoch']}; "
        f"rating at the mean: {mean}); figures in {where}"
    )


def _figures(metrics: Mapping[str, Tensor]) -> Figures:
    """Plain numbers, None for NaN: JSON has no such number. Times never recur: not here."""
    values = {
        name: float(value) for name, value in sorted(metrics.items()) if not name.startswith(PREFIX)
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _loss(figures: Figures) -> float:
    loss = figures.get("val/loss")
    return math.inf if loss is None else loss


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _write(path: Path, epochs: Mapping[str, Figures]) -> None:
    write_whole(path, (json.dumps(epochs, indent=1, allow_nan=False) + "\n").encode())
