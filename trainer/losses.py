"""Losses over labels of which some are missing and rows of which some are padding."""

import torch
from torch import Tensor, distributed


def masked_mse(prediction: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
    """Mean squared error over the labels that exist, weighted by row, over all ranks.

    Gradients averaged over ranks (as DistributedDataParallel does) are those of the mean
    over the global batch, however unequally the labels fall on the ranks.

    Args:
        prediction: (B, D) float.
        target: (B, D) float, NaN where a sample has no such label.
        weight: (B,) float, 0 for padding; rows of weight 0 may hold anything.

    Returns:
        A scalar; 0 with gradients of 0 where no rank has a label.
    """
    counts = valid(target, weight=weight)
    # Before the subtraction: NaN times 0 is NaN, in the loss and in its gradient.
    error = torch.where(counts, prediction, 0.0) - torch.where(counts, target, 0.0)
    share = torch.where(counts, weight[:, None], 0.0)
    total, ranks = _over_ranks(share.sum())
    return (error.square() * share).sum() * ranks / total.clamp(min=1e-12)


def masked_mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over the labels that exist on this rank; 0 if there are none."""
    # A NaN would stay in the mean over the epoch.
    return (prediction - target).abs().nanmean().nan_to_num(0.0)


def valid(target: Tensor, *, weight: Tensor) -> Tensor:
    """(B, D) bool: which labels exist, in rows that are no padding."""
    return torch.isfinite(target) & (weight > 0)[:, None]


def _over_ranks(total: Tensor) -> tuple[Tensor, int]:
    """Sum a scalar over the ranks, and say how many they are; this one alone without any."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return total, 1
    total = total.detach().clone()
    distributed.all_reduce(total)
    return total, distributed.get_world_size()
