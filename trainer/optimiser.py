"""AdamW over the parts of a model, each with its own rate and decay."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW

Parameters = Sequence[nn.Parameter]


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    apart: Sequence[tuple[Parameters, float | None]],
    learning_rate: float,
    weight_decay: float,
) -> AdamW:
    """The optimiser of a run.

    Args:
        parameters: all of the model; those that are frozen are left out.
        apart: parts of it with rates of their own; None is the same rate.
        learning_rate: of all that is in no such part.
        weight_decay: of matrices; vectors (biases, norms) have none.
    """
    in_parts = {id(p) for part, _ in apart for p in part}
    rest = [p for p in parameters if id(p) not in in_parts]
    groups = [
        group
        for part, rate in [(rest, learning_rate), *apart]
        for group in _groups(part, learning_rate if rate is None else rate, weight_decay)
    ]
    return AdamW([group for group in groups if group["params"]])


def _groups(parameters: Parameters, rate: float, decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without."""
    trained = [p for p in parameters if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    return [
        {"params": matrices, "lr": rate, "weight_decay": decay},
        {"params": vectors, "lr": rate, "weight_decay": 0.0},
    ]
