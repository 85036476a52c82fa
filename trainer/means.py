"""Lightning's running means of an epoch, which its own checkpoints leave out."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

Sums = dict[str, tuple[float, int]]


def capture(trainer: Trainer) -> Sums:
    """Sum and weight of what was logged for the mean over the epoch, on this rank, by name."""
    return {
        name: (float(metric.value), int(metric.cumulated_batch_size))
        for name, metric in _means(trainer)
    }


def add(trainer: Trainer, ranks: Sequence[Sums]) -> None:
    """Add the sums of all ranks of an earlier part of the epoch, here on rank 0 alone.

    Called behind a batch that was logged: Lightning knows a name from then on.
    """
    if not trainer.is_global_zero:
        return
    for name, metric in _means(trainer):
        for total, weight in (rank[name] for rank in ranks if name in rank):
            metric.value = metric.value + total
            metric.cumulated_batch_size = metric.cumulated_batch_size + weight


def _means(trainer: Trainer) -> list[tuple[str, Any]]:
    results = trainer.fit_loop.epoch_loop._results
    return [
        (name, metric)
        for name, metric in results.items()
        if metric.is_tensor and metric.meta.on_epoch and metric.meta.is_mean_reduction
    ]
