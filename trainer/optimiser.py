"""AdamW over the parts of a model, each with its own rate and decay."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    backbone: Sequence[nn.Parameter],
    learning_rate: float,
    backbone_learning_rate: float | None,
    weight_decay: float,
) -> AdamW:
    """The optimiser of a run.

    Args:
        parameters: all of the model; those that are frozen are left out.
        backbone: which of them are encoders.
        learning_rate: of what is no encoder, and of encoders without a rate of their own.
        backbone_learning_rate: of the encoders.
        weight_decay: of matrices; vectors (biases, norms) have none.
    """
    encoders = {id(p) for p in backbone}
    trained = [p for p in parameters if p.requires_grad]
    rest = [p for p in trained if id(p) not in encoders]
    rate = learning_rate if backbone_learning_rate is None else backbone_learning_rate
    groups = [*_groups(rest, learning_rate, weight_decay), *_groups(backbone, rate, weight_decay)]
    return AdamW([group for group in groups if group["params"]])


def _groups(parameters: Iterable[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without."""
    parameters = list(parameters)
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": matrices, "lr": rate, "weight_decay": decay},
        {"params": vectors, "lr": rate, "weight_decay": 0.0},
    ]
