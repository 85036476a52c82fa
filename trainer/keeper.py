"""Makes a run safe to kill: when it is saved, what that holds, and how it goes on from there."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from trainer import keylog, means, randomness
from trainer.checkpoint import FOLDER, LAST, WholeCheckpoints
from trainer.disk import attempt
from trainer.restart import adapt, be_patient, move, sizes, tune
from trainer.stopping import Stopped, StopSignals


class Keeper(Checkpoint):
    """Saves a run every some minutes, after every epoch, and when a signal ends it.

    A checkpoint lies between two batches, never where gradients are half accumulated or a
    validation is due: those places Lightning cannot go on from exactly. The next one is taken then.
    """

    def __init__(
        self,
        folder: Path,
        signals: StopSignals,
        files: WholeCheckpoints,
        *,
        minutes: float,
        log_keys: bool,
        saved: Callable[[dict[str, Any]], None],
    ) -> None:
        """Keep a run.

        Args:
            folder: of the run.
            signals: what ends it.
            files: how checkpoints are written.
            minutes: between two checkpoints within an epoch; 0 saves wherever it can be.
            log_keys: whether ``keys.jsonl`` tells the samples of every batch.
            saved: called on rank 0 once a checkpoint is on the disk, with where the run stands.
        """
        self._path, self._log = folder / FOLDER / LAST, folder / keylog.NAME
        self._signals, self._files, self._saved = signals, files, saved
        self._pause_s, self._log_keys = 60 * minutes, log_keys
        self._keys: list[dict[str, Any]] = []  # since the last checkpoint
        self._unwritten: list[dict[str, Any]] = []
        self._loaded: dict[str, Any] = {}
        self._group: Any = None
        self._due_s = 0.0
        self._leaving = 0  # the signal that ends the run once the epoch's figures are logged
        self._within = False  # an epoch, while it is saved
        self.batches = 0  # in the whole run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signals.install()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.install()  # again: meanwhile Lightning has put in its own

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Fit the checkpoint to this run's ranks, batch size and folder."""
        self._loaded = checkpoint["run"]
        self.batches = self._loaded["batches"]
        adapt(checkpoint, trainer, before=self._loaded["sizes"])
        move(checkpoint["callbacks"], self._path.parent)
        if early := trainer.early_stopping_callback:
            goes_on = be_patient(checkpoint["callbacks"], patience=early.patience)
            self._loaded["stops_early"] &= not goes_on

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called on every rank; what ranks hold of their own is gathered."""
        if "loops" not in checkpoint:  # weights alone
            return
        within = self._within
        mine = {"random": randomness.capture(), "means": means.capture(trainer) if within else {}}
        checkpoint["run"] = {
            "batches": self.batches,
            "sizes": sizes(trainer),
            "stops_early": trainer.should_stop,
            "ranks": self._gather(trainer, mine),
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")  # flags never wait for a GPU
        if trainer.is_global_zero:
            keylog.cut_back(self._log, batches=self.batches)
        if self._loaded:
            ranks = self._loaded["ranks"]
            randomness.restore(ranks[trainer.global_rank % len(ranks)]["random"])
            stops = self._loaded["stops_early"] and trainer.early_stopping_callbacks
            trainer.should_stop = bool(stops)
            tune(trainer)
        self._signals.install()
        self._signals.deferred = True
        self._due_s = time.monotonic() + self._pause_s

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if self._loaded:  # now that the first batch has made Lightning's means anew
            means.add(trainer, [rank["means"] for rank in self._loaded["ranks"]])
            self._loaded = {}
        if self._log_keys:
            epoch, keys = trainer.current_epoch, batch["__key__"]
            self._keys.append(keylog.line(epoch=epoch, batch=self.batches, keys=keys))
        self._leaving, due = self._agreed(trainer)
        if (self._leaving or due) and _is_between(trainer, batch_idx):
            self._within = True
            self._save(trainer)
            self._within = False
            self._leave()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leaving, _ = self._agreed(trainer)
        self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.deferred = False

    def _leave(self) -> None:
        if self._leaving:
            raise Stopped(self._leaving)

    def _save(self, trainer: Trainer) -> None:
        keys, self._keys = self._gather(trainer, self._keys), []
        if trainer.is_global_zero:
            self._unwritten += keylog.merge(keys)
            with attempt(self._log):
                keylog.append(self._log, self._unwritten)
                self._unwritten = []
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self._path, weights_only=False)
        if trainer.is_global_zero and not self._files.failed:
            self._saved(
                {
                    "epoch": trainer.current_epoch,
                    "step": trainer.global_step,
                    "batches": self.batches,
                    "epochs": trainer.current_epoch + (not self._within),
                    "ended": trainer.should_stop,
                }
            )
        self._due_s = time.monotonic() + self._pause_s

    def _agreed(self, trainer: Trainer) -> tuple[int, bool]:
        """Signal and whether a checkpoint is due, the same on all ranks."""
        flags = torch.tensor([self._signals.asked, int(time.monotonic() >= self._due_s)])
        if self._group is not None:
            distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=self._group)
        return int(flags[0]), bool(flags[1])

    def _gather(self, trainer: Trainer, mine: Any) -> list[Any]:
        """What each rank holds, in order, on all of them."""
        if self._group is None:
            return [mine]
        every: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(every, mine, group=self._group)
        return every


def _is_between(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a run can be gone on with from behind this batch, exactly."""
    steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    interval = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is None:  # then the interval counts through all epochs
        batch_idx = trainer.fit_loop.epoch_loop.total_batch_idx
    validates = interval not in (None, float("inf")) and (batch_idx + 1) % int(interval) == 0
    return steps and not validates and not trainer.is_last_batch
