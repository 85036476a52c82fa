"""Which samples this rank reads: the order of all of them, and its place among the ranks."""

from collections.abc import Sequence
from typing import Any

from loader.mixture import Mixture
from loader.order import Order
from loader.settings import Settings
from loader.source import Source
from loader.state import State, resume_from
from loader.world import World, find_world, process_group, step_count


class Sampler:
    """The order of a pipeline's samples and this rank's part in it, looked up when first needed.

    Its length is the batches of a whole epoch on this rank; the same on every rank.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        settings: Settings,
        *,
        fingerprint: str,
        weights: Sequence[float] | None,
    ) -> None:
        """Look up nothing yet.

        Args:
            sources: datasets, already cut to the subset; one unless they are mixed.
            fingerprint: identity of the whole datasets.
            weights: of the sources in a mixture.
        """
        self._rows = [source.rows for source in sources]
        self._settings, self._fingerprint = settings, fingerprint
        self.weights = None if weights is None else tuple(weights)
        self._world: World | None = None
        self._mixture: Mixture | None = None

    @property
    def world(self) -> World:
        """This process's rank, looked up once; a process group must agree with it ever after.

        Raises:
            ValueError: if it is given by half.
            RuntimeError: if the process group is another by now.
        """
        group = process_group()
        settings = self._settings
        if self._world is None:
            self._world = find_world(settings.rank, settings.world_size, group=group)
        elif settings.rank is None and group not in (None, (self._world.rank, self._world.size)):
            raise RuntimeError(
                f"the pipeline began as rank {self._world.rank} of {self._world.size}, but the "
                f"process group now says {group}: initialise it before the first len() or iter()"
            )
        return self._world

    @property
    def mixture(self) -> Mixture:
        """All samples of an epoch, in order; errors as those of ``world``."""
        if self._mixture is None:
            self._mixture = self.new_mixture(self.world.nodes)
        return self._mixture

    def new_mixture(self, streams: int) -> Mixture:
        """The same in an instance of its own, as walked by so many nodes."""
        seed, shuffle = self._settings.seed, self._settings.shuffle
        orders = [Order(r, seed=seed, shuffle=shuffle, streams=streams) for r in self._rows]
        return Mixture(orders, self.weights)

    def __len__(self) -> int:
        """Raise ValueError if it is 0."""
        steps = self.steps(0)
        if not steps:
            size, world = self._settings.batch_size, self.world.size
            raise ValueError(
                f"an epoch has no batch: batch_size={size} * world_size={world} is more than the "
                f"{len(self.mixture)} samples; lower batch_size or pass drop_last=False"
            )
        return steps

    def steps(self, position: int) -> int:
        """Steps that are left of an epoch from a position on."""
        return step_count(
            len(self.mixture) - position,
            batch_size=self._settings.batch_size,
            world=self.world,
            drop_last=self._settings.drop_last,
        )

    def state(self, epoch: int, position: int) -> State:
        """A position in this order, to be kept."""
        return State(
            fingerprint=self._fingerprint,
            seed=self._settings.seed,
            shuffle=self._settings.shuffle,
            subset=self._settings.subset,
            mixture=self.weights,
            streams=self.mixture.streams,
            epoch=epoch,
            position=position,
        )

    def checked(self, state: dict[str, Any]) -> State:
        """A state that was kept; raise StateError if it belongs to other data or another order."""
        return resume_from(state, self.state(0, 0), samples=len(self.mixture))

    def follow(self, state: State) -> None:
        """Order samples as the run of a checked state did, which other nodes may have begun."""
        self._mixture = self.new_mixture(state.streams)
