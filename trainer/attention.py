"""Attention over padded sequences: from one to itself, to another, or to a single vector."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Encoded(NamedTuple):
    """A batch of sequences of unequal length, at least one real position in each.

    Attributes:
        values: (B, S, dim) float.
        mask: (B, S) bool, True where a position is real and not padding.
    """

    values: Tensor
    mask: Tensor


def real_positions(length: int, real: Tensor) -> Tensor:
    """(B, length) bool: True in the first ``real[b]`` positions of row b."""
    return torch.arange(length, device=real.device) < real[:, None]


class Attention(nn.Module):
    """Multi-head attention from one sequence to another or to itself."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        assert dim % heads == 0, (dim, heads)
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Encoded) -> Tensor:
        """Return (B, Q, dim): what each position of x (B, Q, dim) gathers from the context."""
        key, value = self.key_value(context.values).chunk(2, dim=-1)
        gathered = functional.scaled_dot_product_attention(
            self._split(self.query(x)),
            self._split(key),
            self._split(value),
            attn_mask=context.mask[:, None, None, :],
        )
        merged: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        """(B, S, dim) to (B, heads, S, dim / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """A transformer layer, normalised before each part, which needs no long warm-up."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads=heads)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Encoded) -> Encoded:
        normed = Encoded(self.attention_norm(x.values), x.mask)
        values = x.values + self.dropout(self.attention(normed.values, normed))
        return Encoded(values + self.dropout(self.feed_forward(values)), x.mask)


class Transformer(nn.Module):
    """Blocks over a sequence that a learned position precedes.

    The learned position is real in every row, so a row without any content (a silent clip,
    a performance of no notes, padding) attends to it instead of dividing by zero.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int,
        heads: int,
        dropout: float,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Build the blocks; checkpointed, each is computed again on the way back, not kept."""
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.start = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Encoded) -> Encoded:
        """Return the sequence, one longer."""
        rows = len(x.mask)
        start = self.start.expand(rows, -1, -1).to(x.values.dtype)
        values = torch.cat([start, x.values], dim=1)
        x = Encoded(values, torch.cat([x.mask.new_ones(rows, 1), x.mask], dim=1))
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return Encoded(self.norm(x.values), x.mask)


class Pool(nn.Module):
    """A sequence to one vector: attention from a learned query."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.question = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.attention = Attention(dim, heads=heads)

    def forward(self, x: Encoded) -> Tensor:
        """Return (B, dim)."""
        question = self.question.expand(len(x.mask), -1, -1)
        pooled: Tensor = self.attention(question, x).squeeze(1)
        return pooled
