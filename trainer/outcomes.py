"""Ratings against labels: those of the best validation pass, sample by sample."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, distributed

from trainer.drawing import scatter
from trainer.module import Rater

if TYPE_CHECKING:  # where tensorboard is not installed, runs go without
    from torch.utils.tensorboard.writer import SummaryWriter


@dataclass(frozen=True, slots=True)
class Outcome:
    """One validation pass.

    Attributes:
        keys: of N samples.
        ratings, labels: (N, D) in the labels' units; a label is NaN where missing.
        loss: of the pass; lower is better.
    """

    epoch: int
    loss: float
    dimensions: tuple[str, ...]
    keys: tuple[str, ...]
    ratings: Tensor
    labels: Tensor

    def furthest(self, count: int) -> list[tuple[str, str, float, float]]:
        """Key, dimension, rating and label of what is furthest off, in deviations of its labels."""
        off = (self.ratings - self.labels).abs() / _deviation(self.labels)
        flat = off.nan_to_num(-1.0).flatten()
        chosen = torch.topk(flat, min(count, int((flat >= 0).sum()))).indices.tolist()
        places = [divmod(place, len(self.dimensions)) for place in chosen]
        return [
            (self.keys[n], self.dimensions[d], float(self.ratings[n, d]), float(self.labels[n, d]))
            for n, d in places
        ]


class Outcomes(Callback):
    """Keeps the best pass of a fit, over all ranks, and draws it at the end.

    Attributes:
        best: that pass; None before the first.
    """

    def __init__(self) -> None:
        self.best: Outcome | None = None
        self._keys: list[str] = []
        self._now: Outcome | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keys = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._keys += batch["__key__"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the scores of the pass; the module forgets them after this."""
        if trainer.sanity_checking:
            return
        rater = cast(Rater, pl_module)
        scale = rater.model.scale
        mine = (
            self._keys,
            scale.restore(torch.cat(rater.scores.ratings)).cpu(),
            scale.restore(torch.cat(rater.scores.labels).to(rater.device)).cpu(),
        )
        keys, ratings, labels = _of_all_ranks(mine)
        real = [row for row, key in enumerate(keys) if key]  # padding has no key
        self._now = Outcome(
            trainer.current_epoch,
            math.inf,
            rater.scores.dimensions,
            tuple(keys[row] for row in real),
            ratings[real],
            labels[real],
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the pass if none before was as good; its loss is known only now."""
        now, self._now = self._now, None
        if now is None:
            return
        loss = float(trainer.callback_metrics.get("val/loss", torch.tensor(math.inf)))
        if self.best is None or math.isnan(self.best.loss) or loss < self.best.loss:
            kept = (now.dimensions, now.keys, now.ratings, now.labels)
            self.best = Outcome(now.epoch, loss, *kept)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A scatter plot of each dimension, in TensorBoard."""
        writer = writer_of(trainer)
        if writer is None or self.best is None:
            return
        for name, figure in scatters(self.best).items():
            writer.add_figure(f"ratings/{name}", figure, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        if self.best is None:
            return {}
        best = self.best
        return {
            "epoch": best.epoch,
            "loss": best.loss,
            "dimensions": list(best.dimensions),
            "keys": list(best.keys),
            "ratings": best.ratings,
            "labels": best.labels,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            names = {name: tuple(state_dict[name]) for name in ("dimensions", "keys")}
            self.best = Outcome(**{**state_dict, **names})


def scatters(outcome: Outcome) -> dict[str, Any]:
    """A figure of each dimension."""
    columns = zip(
        outcome.dimensions, outcome.labels.numpy().T, outcome.ratings.numpy().T, strict=True
    )
    return {name: scatter(labels, ratings, title=name) for name, labels, ratings in columns}


def writer_of(trainer: Trainer) -> "SummaryWriter | None":
    """TensorBoard's writer, on the one rank that writes, if the run logs to it."""
    loggers = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
    if not trainer.is_global_zero or not loggers:
        return None
    return cast("SummaryWriter", loggers[0].experiment)


def _of_all_ranks(mine: tuple[list[str], Tensor, Tensor]) -> tuple[list[str], Tensor, Tensor]:
    """Keys, ratings and labels end to end, rank after rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return mine
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    keys = [key for part in found for key in part[0]]
    return keys, torch.cat([part[1] for part in found]), torch.cat([part[2] for part in found])


def _deviation(labels: Tensor) -> Tensor:
    """(D,) population deviation of what is there; 1 where nothing varies."""
    mean = labels.nanmean(dim=0)
    spread = (labels - mean).square().nanmean(dim=0).sqrt()
    return torch.where(spread > 0, spread, 1.0)
