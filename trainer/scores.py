"""How good ratings are, per dimension and on average, against rating all at the mean."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import (
    mean_absolute_error,
    mean_squared_error,
    pearson_corrcoef,
    r2_score,
    spearman_corrcoef,
)

from trainer.losses import valid

# Below this deviation (the training labels' is 1) a correlation is rounding noise.
_FLAT = 1e-3


class Scores(Metric):
    """All ratings of a pass, kept, so that the figures are exact over batches and ranks."""

    full_state_update = False
    ratings: list[Tensor]
    labels: list[Tensor]

    def __init__(self, dimensions: Sequence[str]) -> None:
        """Hold nothing yet of labels of these names, in order."""
        super().__init__()
        self.dimensions = tuple(dimensions)
        self.add_state("ratings", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, ratings: Tensor, labels: Tensor, *, std: Tensor, weight: Tensor) -> None:
        """Add a batch.

        Args:
            ratings, labels: (B, D) in standard deviations from the training mean; a label is
                NaN where missing.
            std: (D,) of that deviation in the labels' units: the model's, which may have been
                trained on other shards than these.
            weight: (B,), 0 for padding.
        """
        self._std = std
        self.ratings.append(ratings.detach().float())
        self.labels.append(torch.where(valid(labels, weight=weight), labels, torch.nan))

    def compute(self) -> dict[str, Tensor]:
        """Return ``figures`` of everything added since the last reset, on all ranks."""
        return figures(
            _joined(self.ratings),
            _joined(self.labels),
            dimensions=self.dimensions,
            std=self._std.cpu().double(),
        )


def figures(
    ratings: Tensor, labels: Tensor, *, dimensions: Sequence[str], std: Tensor
) -> dict[str, Tensor]:
    """Every figure by name, NaN where there are too few labels for it.

    Args:
        ratings, labels: (N, D) as in ``Scores.update``.
        dimensions: names of the D columns.
        std: (D,) as in ``Scores.update``.

    Returns:
        ``loss`` is the squared error over all labels, ``mse`` the mean of that over the
        dimensions, both in squared standard deviations; ``mae`` is in the labels' units;
        ``pearson``, ``spearman`` and ``r2`` have none. The latter four also come per dimension, as
        ``mae/NAME``. ``*_mean_baseline`` is the figure of always rating the training mean.
    """
    at_mean = torch.zeros_like(ratings)
    by_dimension = {
        "mae": _each(mean_absolute_error, ratings, labels) * std,
        "pearson": _each(_correlation(pearson_corrcoef), ratings, labels),
        "spearman": _each(_correlation(spearman_corrcoef), ratings, labels),
        "r2": _each(_r2, ratings, labels),
    }
    means = by_dimension | {
        "mse": _each(mean_squared_error, ratings, labels),
        "mse_mean_baseline": _each(mean_squared_error, at_mean, labels),
        "mae_mean_baseline": _each(mean_absolute_error, at_mean, labels) * std,
    }
    found = {"loss": (ratings - labels).square().nanmean()}
    found |= {name: values.nanmean() for name, values in means.items()}
    for name, values in by_dimension.items():
        found |= {f"{name}/{d}": v for d, v in zip(dimensions, values, strict=True)}
    return found


def _joined(batches: list[Tensor] | Tensor) -> Tensor:
    """(N, D) double on the CPU: exact sums, and one path for every device."""
    joined = torch.cat(batches) if isinstance(batches, list) else batches
    return joined.cpu().double()


def _each(measure: Callable[[Tensor, Tensor], Tensor], ratings: Tensor, labels: Tensor) -> Tensor:
    """(D,): the measure of each dimension over the samples that have its label."""
    found = []
    for rating, label in zip(ratings.unbind(1), labels.unbind(1), strict=True):
        exists = torch.isfinite(label)
        enough = bool(exists.sum() > 1)
        found.append(measure(rating[exists], label[exists]) if enough else _nan())
    return torch.stack(found)


def _correlation(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The measure, or NaN where either side does not vary."""

    def found(rating: Tensor, label: Tensor) -> Tensor:
        flat = min(float(rating.std()), float(label.std())) < _FLAT
        return _nan() if flat else measure(rating, label)

    return found


def _r2(rating: Tensor, label: Tensor) -> Tensor:
    return _nan() if float(label.std()) < _FLAT else r2_score(rating, label)


def _nan() -> Tensor:
    return torch.tensor(torch.nan, dtype=torch.float64)
