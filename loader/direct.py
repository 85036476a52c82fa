"""Shards where they lie: in a folder of this machine, or by range behind a URL."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from loader.catalog import Shard
from loader.numbering import Numbering
from loader.opened import Opened, missing, open_by_range, open_in_place
from loader.pin import pin_if_cached
from loader.stats import Stats
from loader.stop import Stop, StoppedError
from loader.trust import Trust
from loader.unmounted import Mounts


class DirectShards:
    """Shards without a cache of their own, by number; for any thread."""

    def __init__(
        self,
        numbering: Numbering,
        stats: Stats,
        trust: Trust,
        *,
        on_disk: NDArray[np.bool_],
        mounts: Mounts,
        stop: Stop,
    ) -> None:
        """Open nothing yet.

        Args:
            on_disk: (S,) which lie on a disk of this machine, and on no mount.
        """
        self._numbering, self._stats, self._trust = numbering, stats, trust
        self._on_disk, self._mounts, self._stop = on_disk, mounts, stop

    def open(self, number: int) -> Opened:
        """A shard; if it lies in a cache, as a file of that one.

        Raises:
            StoppedError: if the store is closed meanwhile.
            FetchError, ShardError: if it cannot be had whole.
        """
        shard, pause = self._numbering.shards[number], self._stop.pause
        if shard.local is None:
            options = self._numbering.options_of(number)
            count = partial(self._stats.count, "fetched_bytes")
            return open_by_range(shard, options, pause=pause, count=count)
        verify = self._trust.is_to_verify(number)
        opener = partial(self._open_in_place, number, shard, verify_hash=verify)
        try:
            entry = self._mounts.patiently(shard.home.local, opener, shard.url, pause=pause)
        except FileNotFoundError:
            raise missing(shard) from None
        if entry.is_pinned:
            self._stats.opened(str(shard.local))
        self._trust.verified(number)
        return entry

    def _open_in_place(self, number: int, shard: Shard, *, verify_hash: bool) -> Opened:
        """One attempt at a shard of this machine: pinned, if it lies in a cache."""
        assert shard.local is not None
        on_disk = bool(self._on_disk[number])
        try:
            pin = pin_if_cached(shard.local, stop=self._stop) if on_disk else None
        except InterruptedError as error:
            raise StoppedError from error
        return open_in_place(
            shard,
            pin,
            pause=self._stop.pause,
            mounted=not on_disk,
            verify_hash=verify_hash,
            indexed=number not in self._trust.unindexed,
        )
