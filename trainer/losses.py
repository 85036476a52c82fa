"""Losses over labels of which some are missing and rows of which some are padding."""

import torch
from torch import Tensor, distributed, nn


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
    error, share = _errors(prediction, target, weight=weight)
    total, ranks = _over_ranks(share.sum())
    return (error * share).sum() * ranks / total.clamp(min=1e-12)


class UncertaintyWeighting(nn.Module):
    """Squared errors per dimension, each weighed by how well it can be known.

    A learned log variance s a dimension makes of its error L: (exp(-s) L + s) / 2, as in Kendall
    et al., "Multi-Task Learning Using Uncertainty to Weigh Losses", 2018. Dimensions on which
    raters disagree, which no model predicts, then stop to pull at what the others share.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(dimensions))

    def forward(self, prediction: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
        """Return the mean over the dimensions that any rank has a label of.

        Arguments, masking and the scale of gradients are those of ``masked_mse``.
        """
        error, share = _errors(prediction, target, weight=weight)
        totals, ranks = _over_ranks(share.sum(dim=0))
        known = totals > 0
        loss = (error * share).sum(dim=0) * ranks / totals.clamp(min=1e-12)
        s = self.log_variance
        terms = torch.where(known, 0.5 * (torch.exp(-s) * loss + s), 0.0)
        mean: Tensor = terms.sum() / known.sum().clamp(min=1)
        return mean


def masked_mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over the labels that exist on this rank; 0 if there are none."""
    # A NaN would stay in the mean over the epoch.
    return (prediction - target).abs().nanmean().nan_to_num(0.0)


def valid(target: Tensor, *, weight: Tensor) -> Tensor:
    """(B, D) bool: which labels exist, in rows that are no padding."""
    return torch.isfinite(target) & (weight > 0)[:, None]


def _errors(prediction: Tensor, target: Tensor, *, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) squared errors and what each weighs; both 0 where there is no label."""
    counts = valid(target, weight=weight)
    # Before the subtraction: NaN times 0 is NaN, in the loss and in its gradient.
    error = torch.where(counts, prediction, 0.0) - torch.where(counts, target, 0.0)
    return error.square(), torch.where(counts, weight[:, None], 0.0)


def _over_ranks(total: Tensor) -> tuple[Tensor, int]:
    """Sum a tensor over the ranks, and say how many they are; this one alone without any."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return total, 1
    total = total.detach().clone()
    distributed.all_reduce(total)
    return total, distributed.get_world_size()
