"""How a pipeline walks its dataset, checked."""

import operator
from dataclasses import dataclass
from typing import Literal

import torch

from loader.order import Shuffle


@dataclass(frozen=True, slots=True)
class Settings:
    """How a pipeline walks its dataset; ``make_pipeline`` documents each."""

    batch_size: int = 16
    drop_last: bool = True
    shuffle: Shuffle = 1000
    seed: int = 0
    num_workers: int | Literal["auto"] = 4
    prefetch: int = 4
    subset: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    max_error_rate: float = 0.01
    rank: int | None = None
    world_size: int | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("prefetch", 1), ("seed", 0)):
            self._whole(name, low)
        if self.num_workers != "auto":
            self._whole("num_workers", 0, ' or "auto"')
        if self.shuffle != "full":
            self._whole("shuffle", 0, ' or "full"')
        if self.subset is not None:
            self._whole("subset", 1)
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", got {self.on_error!r}')
        if not 0 <= self.max_error_rate <= 1:
            raise ValueError(f"max_error_rate must be in [0, 1], got {self.max_error_rate}")

    def _whole(self, name: str, low: int, otherwise: str = "") -> None:
        """Refuse what is no whole number in range; keep others as Python's own, for JSON."""
        given = getattr(self, name)
        try:
            value = -1 if isinstance(given, bool) else operator.index(given)
        except TypeError:
            value = -1
        if not low <= value < 2**63:
            raise ValueError(f"{name} must be a whole number from {low}{otherwise}, got {given!r}")
        object.__setattr__(self, name, value)
