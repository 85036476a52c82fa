"""The callbacks of a run."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar

from trainer.history import History


def make_callbacks(asked: Any, folder: Path) -> list[Callback]:
    """What accompanies a fit, but for what is switched off; a callback is a line here.

    Args:
        asked: the parsed config of the command: ``asked.trainer``, ``asked.data``, ...
        folder: of the run, on a disk of this machine. What is written below it is kept, and
            carried to where the run is to lie. ``trainer.log_dir`` is its folder ``logs``.
    """
    checkpoints = folder / "checkpoints"
    every = (
        (History(), True),
        (_best(checkpoints), asked.trainer.enable_checkpointing),
        (_last(checkpoints), asked.trainer.enable_checkpointing),
        (LearningRateMonitor(logging_interval="step"), asked.trainer.logger),
        # By name: where rich is installed, Lightning would take its bar.
        (TQDMProgressBar(), asked.trainer.enable_progress_bar),
    )
    return [callback for callback, wanted in every if wanted is not False]


def _best(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder, monitor="val/loss", filename="best", enable_version_counter=False
    )


def _last(folder: Path) -> ModelCheckpoint:
    """After every epoch, whatever the loss, and when the run is interrupted."""
    return ModelCheckpoint(
        folder,
        filename="last",
        monitor=None,
        enable_version_counter=False,
        save_on_exception=True,
    )
