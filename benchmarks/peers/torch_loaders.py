"""What peers share that are read through PyTorch's DataLoader: epochs, states, skipping."""

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.peers.setting import BATCH, SEED, Batch, Setting


class MapLoader:
    """A map-style dataset in PyTorch's DataLoader, or torchdata's stateful one where it resumes."""

    def __init__(
        self, dataset: Any, setting: Setting, *, sampler: Any = None, collate: Any = None
    ) -> None:
        import torch

        options = {
            "batch_size": BATCH,
            "drop_last": True,
            "num_workers": setting.workers,
            "persistent_workers": setting.workers > 0,
            "collate_fn": collate,
            "generator": torch.Generator().manual_seed(SEED),
        }
        order = {"shuffle": True} if sampler is None else {"sampler": sampler}
        self.loader = loader_kind(setting)(dataset, **options, **order)

    def epoch(self) -> Iterator[Batch]:
        return iter(self.loader)

    def state(self) -> Any:
        return self.loader.state_dict()

    def resumed(self, state: Any) -> Iterator[Batch]:
        self.loader.load_state_dict(state)
        return iter(self.loader)

    def close(self) -> None:
        del self.loader


class Skipping:
    """A peer without a state: to resume is to begin anew and to drop what was seen."""

    def __init__(self, epoch: Callable[[int], Iterator[Batch]]) -> None:
        """``epoch`` gives batches, the first ones left out: cheaply where the peer can."""
        self._epoch = epoch
        self._seen = 0

    def epoch(self) -> Iterator[Batch]:
        self._seen = 0
        for batch in self._epoch(0):
            self._seen += 1
            yield batch

    def state(self) -> int:
        return self._seen

    def resumed(self, state: int) -> Iterator[Batch]:
        return self._epoch(state)

    def close(self) -> None: ...


def loader_kind(setting: Setting) -> Any:
    """The class to iterate with."""
    if setting.resumable:
        from torchdata.stateful_dataloader import StatefulDataLoader

        return StatefulDataLoader
    from torch.utils.data import DataLoader

    return DataLoader
