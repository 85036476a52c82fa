"""The callbacks of a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from trainer.checkpoint import BEST, FOLDER, WholeCheckpoints
from trainer.folder import RunFolder
from trainer.history import History
from trainer.keeper import Keeper
from trainer.outcomes import Outcomes
from trainer.report import Report
from trainer.showcase import Showcase
from trainer.stopping import StopSignals
from trainer.telemetry import Bar, Telemetry

log = logging.getLogger(__name__)

_MONITOR = "val/loss"


def make_callbacks(
    asked: Any, folder: RunFolder, signals: StopSignals, files: WholeCheckpoints
) -> list[Callback]:
    """What accompanies a fit, but for what is switched off; a callback is a line here.

    Args:
        asked: the parsed config of the command: ``asked.trainer``, ``asked.data``, ...
        folder: of the run. What is written below ``folder.path``, which is on a disk of this
            machine, is kept, and carried to where the run is to lie; ``trainer.default_root_dir``
            is the same, and ``trainer.log_dir`` its folder ``logs``.
        signals: what ends the run after its step.
        files: how checkpoints are written.
    """
    keeper = Keeper(
        folder.path,
        signals,
        files,
        minutes=asked.checkpoint_minutes,
        log_keys=asked.log_keys,
        saved=folder.saved,
    )
    saves = asked.trainer.enable_checkpointing is not False and not asked.trainer.fast_dev_run
    every = (
        (Telemetry(), True),
        (History(), True),
        (_early_stopping(asked.early_stopping), asked.early_stopping is not None),
        (_best(folder, files), saves),
        (keeper, saves),
        (LearningRateMonitor(logging_interval="step"), asked.trainer.logger),
        # By name: where rich is installed, Lightning would take its bar.
        (Bar(), asked.trainer.enable_progress_bar),
        *((callback, True) for callback in _pictures()),
    )
    return [callback for callback, wanted in every if wanted is not False]


def _pictures() -> list[Callback]:
    """What is to be looked at, where it can be drawn."""
    if find_spec("matplotlib") is None:
        log.warning("no pictures and no report of this run: pip install matplotlib")
        return []
    outcomes = Outcomes()
    return [outcomes, Showcase(), Report(outcomes)]


class _Best(ModelCheckpoint):
    """The best of what could be written: where a disk was full, the next may take its place."""

    def __init__(self, files: WholeCheckpoints, **options: Any) -> None:
        super().__init__(**options)
        self._files = files

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self._undone_if_it_fails(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self._undone_if_it_fails(trainer):
            super().on_validation_end(trainer, pl_module)

    @contextmanager
    def _undone_if_it_fails(self, trainer: Trainer) -> Iterator[None]:
        before = deepcopy(self.state_dict())
        self._files.failed = False
        yield
        if trainer.strategy.broadcast(self._files.failed):  # rank 0 writes
            self.load_state_dict(before)


def _best(folder: RunFolder, files: WholeCheckpoints) -> ModelCheckpoint:
    """The weights of the lowest validation loss."""
    return _Best(
        files,
        dirpath=folder.path / FOLDER,
        monitor=_MONITOR,
        filename=BEST.removesuffix(".ckpt"),
        enable_version_counter=False,
        save_weights_only=True,
    )


def _early_stopping(patience: int | None) -> EarlyStopping:
    return EarlyStopping(_MONITOR, patience=patience or 0)
