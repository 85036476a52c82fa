"""How a pipeline walks its dataset, checked."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from loader.order import Order, Shuffle


@dataclass(frozen=True, slots=True)
class Settings:
    """How a pipeline walks its dataset; ``make_pipeline`` documents each."""

    batch_size: int = 16
    drop_last: bool = True
    shuffle: Shuffle = 1000
    seed: int = 0
    num_workers: int = 4
    prefetch: int = 4
    subset: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    max_error_rate: float = 0.01
    rank: int | None = None
    world_size: int | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("num_workers", 0), ("prefetch", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        Order(np.ones(1, dtype=np.int64), seed=self.seed, shuffle=self.shuffle)  # checks both
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", got {self.on_error!r}')
        if not 0 <= self.max_error_rate <= 1:
            raise ValueError(f"max_error_rate must be in [0, 1], got {self.max_error_rate}")
