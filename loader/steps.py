"""Where the samples of each step of an epoch lie, on this rank."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loader.mixture import Mixture
from loader.order import Positions
from loader.store import ShardStore
from loader.world import World, step_positions

_PLANNED_STEPS = 16  # planning them together costs little more than planning one


@dataclass(frozen=True, slots=True)
class Places:
    """Where the samples of one step lie: source, shard of the store, row of the shard."""

    sources: Positions
    shards: Positions
    rows: Positions


def find_places(store: ShardStore, mixture: Mixture, epoch: int, positions: Positions) -> Places:
    """Where the samples at some positions of an epoch lie."""
    sources, samples = mixture.samples(epoch, positions)
    return Places(sources, *store.locate(sources, samples))


class Steps(Iterator[Places]):
    """The steps of an epoch from a position on, planned a few at a time.

    Attributes:
        left: steps that were not given out yet.
        position: of the epoch, behind the last step given out.
    """

    def __init__(
        self,
        store: ShardStore,
        mixture: Mixture,
        world: World,
        *,
        epoch: int,
        position: int,
        batch_size: int,
        steps: int,
    ) -> None:
        self._store, self._mixture, self._world = store, mixture, world
        self._epoch, self._batch_size = epoch, batch_size
        self.left, self.position = steps, position
        self._planned: deque[Places] = deque()

    def __next__(self) -> Places:
        if not self.left:
            raise StopIteration
        if not self._planned:
            self._planned = self._plan(min(self.left, _PLANNED_STEPS))
        self.left -= 1
        self.position += self._batch_size * self._world.size
        return self._planned.popleft()

    def _plan(self, steps: int) -> deque[Places]:
        positions = [
            step_positions(
                self.position + step * self._batch_size * self._world.size,
                len(self._mixture),
                batch_size=self._batch_size,
                world=self._world,
                streams=self._mixture.streams,
            )
            for step in range(steps)
        ]
        together = np.concatenate(positions)
        found = find_places(self._store, self._mixture, self._epoch, together)
        ends = np.cumsum([len(step) for step in positions[:-1]])
        parts = (np.split(of, ends) for of in (found.sources, found.shards, found.rows))
        return deque(Places(*step) for step in zip(*parts, strict=True))
