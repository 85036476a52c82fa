"""The wide path: figures of the whole clip, straight to the ratings."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_FARTHEST = 4.0


class Wide(nn.Module):
    """A linear layer from each modality's figures to the ratings; the mean of those present.

    As in Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016: what follows from a
    few figures need not be found anew by a deep model, which a thousand samples do not teach it.
    Dropout of a linear layer's inputs is a ridge penalty on its weights (Wager et al., "Dropout
    Training as Adaptive Regularization", 2013).
    """

    def __init__(
        self,
        scales: Mapping[str, Sequence[tuple[float, float]]],
        *,
        dimensions: int,
        dropout: float,
    ) -> None:
        """Build it; it begins at 0.

        Args:
            scales: of each modality, mean and deviation of each of its figures over clips. They
                need not be exact, and are the same for every batch, whatever the ranks have.
            dimensions: ratings to make of them.
            dropout: share of the figures that training leaves out; 1 is all: no wide path.
        """
        super().__init__()
        self.dimensions = dimensions
        self.paths = nn.ModuleDict(
            {
                name: nn.Sequential(
                    _Standardise(scale),
                    nn.Dropout(dropout),
                    nn.Linear(len(scale), dimensions, bias=False),
                )
                for name, scale in scales.items()
            }
        )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, figures: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return (B, dimensions) float32; 0 where nothing is present.

        Args:
            figures: (B, K) float32 by modality.
            present: (B,) bool by modality: which rows have it.
        """
        rows = next(iter(present.values()))
        total = torch.zeros(len(rows), self.dimensions, device=rows.device)
        many = torch.zeros(len(rows), 1, device=rows.device)
        for name, path in self.paths.items():
            there = present[name][:, None]
            total = total + torch.where(there, path(figures[name]).float(), 0.0)
            many = many + there
        return total / many.clamp(min=1)


class _Standardise(nn.Module):
    """Figures to about mean 0 and deviation 1; buffers, so that a checkpoint keeps its scale.

    A clip of few notes has figures that are nothing of the kind: what is beyond ``_FARTHEST``
    deviations counts as that.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, scale: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        centre, spread = torch.tensor(scale).T.contiguous()
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def forward(self, figures: Tensor) -> Tensor:
        return ((figures - self.centre) / self.spread).clamp(-_FARTHEST, _FARTHEST)
