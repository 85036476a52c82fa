"""Which sample stands at each position of an epoch. Pure: no I/O, no clock, no global state.

Permutations come from integer hashing, not from a library's random streams, so an order is the
same on every machine and in every version; a checkpoint may rely on it.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
Shuffle = int | Literal["full"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6
_WINDOWS_KEPT = 4  # a batch may lie on a border; the plan of shards to fetch runs ahead of it


class Order:
    """The samples of one dataset, epoch after epoch, in windows of whole shards.

    The shards of an epoch are permuted and laid end to end; the row is cut into ``streams`` runs
    of equal length, one a node. Each run is taken in windows, and the samples of a window are
    permuted. The first window is one shard, then two, four, ..., until a window has ``shuffle``
    samples, so that reading starts after one shard; a rest too small for a window of its own
    belongs to the last one. Position ``p`` of the epoch is sample
    ``p // streams`` of run ``p % streams``.
    """

    def __init__(
        self, rows: Positions, *, seed: int = 0, shuffle: Shuffle = 1000, streams: int = 1
    ) -> None:
        """Plan an order.

        Args:
            rows: (S,) samples of each shard, in stored order.
            shuffle: 0 keeps the stored order, N asks for windows of at least N samples, "full"
                is one permutation of everything, evaluated position by position.
            streams: how many runs there are.

        Raises:
            ValueError: if an argument is out of range.
        """
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if shuffle != "full" and (isinstance(shuffle, str) or shuffle < 0):
            raise ValueError(f'shuffle must be at least 0 or "full", got {shuffle!r}')
        if streams < 1:
            raise ValueError(f"streams must be at least 1, got {streams}")
        self.streams = streams
        self._rows = np.asarray(rows, dtype=np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(self._rows)])
        self._seed, self._shuffle = seed, shuffle
        self._epoch = -1
        self._shards = np.empty(0, np.int64)
        self._ends = np.empty(0, np.int64)
        self._starts: dict[int, Positions] = {}
        self._windows: dict[tuple[int, int], Positions] = {}

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def run_length(self, stream: int) -> int:
        """Samples in one run; runs differ by at most one."""
        return (len(self) - stream + self.streams - 1) // self.streams

    def samples(self, epoch: int, positions: Positions) -> Positions:
        """Numbers, in stored order, of the samples at the given positions of an epoch."""
        if self._shuffle == "full":
            return bijection(positions, len(self), hash_key(self._seed, epoch))
        samples = np.empty_like(positions)
        stream = positions % self.streams
        for chosen in np.unique(stream):
            here = stream == chosen
            samples[here] = self.run_samples(epoch, int(chosen), positions[here] // self.streams)
        return samples

    def run_samples(self, epoch: int, stream: int, indices: Positions) -> Positions:
        """Numbers, in stored order, of the samples at the given indices of one run."""
        if self._shuffle == "full":
            return self.samples(epoch, indices * self.streams + stream)
        self._begin(epoch)
        at = indices + self._run_start(stream)
        if self._shuffle != 0:
            at = self._shuffled(stream, at)
        shard = np.searchsorted(self._ends, at, side="right")
        number = self._shards[shard]
        from_end: Positions = at - self._ends[shard] + self._rows[number]
        return self._firsts[number] + from_end

    def _begin(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._shards = np.flatnonzero(self._rows)
        if self._shuffle != 0:
            self._shards = self._shards[permutation(len(self._shards), self._seed, epoch)]
        self._ends = np.cumsum(self._rows[self._shards])
        self._starts, self._windows = {}, {}
        self._epoch = epoch

    def _run_start(self, stream: int) -> int:
        longer = len(self) % self.streams  # this many runs, the first, have one sample more
        return stream * (len(self) // self.streams) + min(stream, longer)

    def _shuffled(self, stream: int, at: Positions) -> Positions:
        """Places in the row of shards after the permutations of their windows."""
        if stream not in self._starts:
            start = self._run_start(stream)
            stop = start + self.run_length(stream)
            assert self._shuffle != "full"
            self._starts[stream] = window_starts(self._ends, start, stop, self._shuffle)
        starts = self._starts[stream]
        windows = np.searchsorted(starts, at, side="right") - 1
        shuffled = np.empty_like(at)
        for window in np.unique(windows):
            here = windows == window
            order = self._window(stream, int(window), int(starts[window + 1] - starts[window]))
            shuffled[here] = starts[window] + order[at[here] - starts[window]]
        return shuffled

    def _window(self, stream: int, window: int, size: int) -> Positions:
        order = self._windows.get((stream, window))
        if order is None:
            while len(self._windows) >= _WINDOWS_KEPT * self.streams:
                self._windows.pop(next(iter(self._windows)))
            order = permutation(size, self._seed, self._epoch, stream, window)
            self._windows[stream, window] = order
        return order


def window_starts(ends: Positions, start: int, stop: int, shuffle: int) -> Positions:
    """Borders of the windows of one run: its start, then the end of each window.

    Args:
        ends: (S,) where each shard of the row ends.
        start, stop: the run, which may start and stop within a shard.
        shuffle: samples that make a window large enough.
    """
    first = int(np.searchsorted(ends, start, side="right"))
    last = int(np.searchsorted(ends, stop, side="left"))
    shard_ends = np.minimum(ends[first : last + 1], stop)
    borders = np.concatenate([[start], shard_ends])
    enough = (np.searchsorted(shard_ends, borders + shuffle, side="left") + 1).tolist()
    taken, shards = [0], 1  # borders by number, and how many shards the next window may have
    while taken[-1] < len(shard_ends):
        last = taken[-1]
        taken.append(min(last + shards, max(enough[last], last + 1), len(shard_ends)))
        shards = min(2 * shards, len(shard_ends))
    starts: Positions = borders[taken]
    if len(starts) > 2 and starts[-1] - starts[-2] < shuffle:
        starts = np.delete(starts, -2)
    return starts.astype(np.int64)


def permutation(size: int, *key: int) -> Positions:
    """A permutation of ``range(size)`` fixed by the key: the order of its numbers' hashes."""
    hashes = _mix(np.arange(size, dtype=np.uint64) * _GOLDEN + hash_key(*key))
    return np.argsort(hashes, kind="stable")


def bijection(positions: Positions, size: int, key: np.uint64) -> Positions:
    """Where a permutation of ``range(size)`` sends each position, without making the permutation.

    A Feistel network over the next even power of two, walked until it lands below ``size``
    (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for number in range(_ROUNDS):
            keyed = _mix(right * _GOLDEN + key + np.uint64(number))
            left, right = right, left ^ (keyed & mask)
        values[outside] = left << half | right
        outside[outside] = values[outside] >= size
    return values.astype(np.int64)


def hash_key(*parts: int) -> np.uint64:
    """One 64-bit key of several numbers; their order matters."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = _mix((key ^ np.uint64(part)) + _GOLDEN)
    return np.uint64(key[0])


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit words."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
