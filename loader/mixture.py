"""Several datasets in one sequence, each in its share. Pure, as the order is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loader.order import Order, Positions

_PATTERN = 10_000  # positions after which the pattern of datasets repeats


class Mixture:
    """Positions of an epoch assigned to datasets by weight, each walked in its own order.

    An epoch has as many positions as the datasets have samples. A dataset's own epoch rises when
    it is exhausted, also across epochs of the mixture: a sample may come never or several times.
    One dataset alone comes exactly once an epoch.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float] | None = None) -> None:
        """Mix orders of equal ``streams``; without weights they stand for one dataset.

        Raises:
            ValueError: if a weight is not a positive number, or a dataset has fewer samples than
                there are streams.
        """
        self.orders = tuple(orders)
        self.streams = self.orders[0].streams
        self._counts = None if weights is None else _pattern_counts(_shares(weights))
        if self._counts is not None and min(map(len, orders)) < self.streams:
            raise ValueError(f"a dataset in a mixture needs at least {self.streams} samples")

    def __len__(self) -> int:
        return sum(map(len, self.orders))

    def samples(self, epoch: int, positions: Positions) -> tuple[Positions, Positions]:
        """Dataset and sample number at each position of an epoch."""
        if self._counts is None:
            return np.zeros_like(positions), self.orders[0].samples(epoch, positions)
        sources, samples = np.empty_like(positions), np.empty_like(positions)
        stream = positions % self.streams
        for chosen in np.unique(stream):
            here = stream == chosen
            sources[here], samples[here] = self._run(
                epoch, int(chosen), positions[here] // self.streams
            )
        return sources, samples

    def _run(self, epoch: int, stream: int, indices: Positions) -> tuple[Positions, Positions]:
        """Dataset and sample number at each index of one stream's run."""
        assert self._counts is not None
        length = (len(self) - stream + self.streams - 1) // self.streams
        # streams begin at different places, else all would favour one dataset at a time
        offset = stream * _PATTERN // self.streams
        rounds, place = np.divmod(indices + epoch * length + offset, _PATTERN)
        before, after = self._counts[place], self._counts[place + 1]
        sources = np.argmax(after > before, axis=1).astype(np.int64)
        samples = np.empty_like(indices)
        for source in np.unique(sources):
            here, order = sources == source, self.orders[source]
            walked = rounds[here] * self._counts[-1, source] + before[here, source]
            walked -= self._counts[offset, source]
            own_epochs, own_indices = np.divmod(walked, order.run_length(stream))
            for own in np.unique(own_epochs):
                now = own_epochs == own
                found = order.run_samples(int(own), stream, own_indices[now])
                samples[np.flatnonzero(here)[now]] = found
        return sources, samples


def _shares(weights: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(weights, dtype=np.float64)
    if not np.all(np.isfinite(values)) or not np.all(values > 0):
        raise ValueError(f"weights of a mixture must be positive numbers, got {list(weights)}")
    shares: NDArray[np.float64] = values / values.sum()
    return shares


def _pattern_counts(shares: NDArray[np.float64]) -> Positions:
    """(PATTERN + 1, D) int64: how often each dataset came before each place of the pattern.

    The k-th turn of a dataset with c turns is due at (k + 1/2) / c: all turns, sorted by when
    they are due, are the pattern, so each stretch has every dataset's share to within a few.
    """
    turns = np.maximum(1, np.floor(shares * _PATTERN)).astype(np.int64)
    turns[np.argmax(turns)] += _PATTERN - turns.sum()
    due = np.concatenate([(np.arange(count) + 0.5) / count for count in turns])
    source = np.repeat(np.arange(len(turns)), turns)[np.argsort(due, kind="stable")]
    came = source[:, None] == np.arange(len(turns))
    zero = np.zeros((1, len(turns)), dtype=np.int64)
    return np.concatenate([zero, np.cumsum(came, axis=0, dtype=np.int64)])
