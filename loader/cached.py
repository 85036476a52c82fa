"""Shards in the cache, as they came and decoded: opened, kept, and removed where damaged."""

import logging
from collections.abc import Callable
from pathlib import Path

from loader.cache import ShardCache
from loader.fetch import Fetcher
from loader.numbering import Numbering
from loader.opened import Opened, open_pinned
from loader.pin import Pin
from loader.stats import Stats
from loader.stop import Stop
from loader.trust import Trust
from shards.errors import CacheError, ShardError

log = logging.getLogger(__name__)


class CachedShards:
    """What the cache has of shards, by number; for any thread."""

    def __init__(
        self,
        numbering: Numbering,
        cache: ShardCache,
        stats: Stats,
        trust: Trust,
        *,
        fetcher: Fetcher,
        stop: Stop,
    ) -> None:
        """Fetch and open nothing yet.

        Args:
            fetcher: of the same shards, into the same cache.
        """
        self._numbering, self._cache = numbering, cache
        self._stats, self._trust = stats, trust
        self._fetcher, self._stop = fetcher, stop
        self._made: set[str] = set()  # decoded copies that need no further look at their hash

    def open(self, number: int) -> Opened:
        """A shard as it came, fetched if need be; one that was damaged there is fetched once more.

        Raises:
            CacheError: if it cannot be put there, or stays damaged there.
            FetchError, ShardError: if it cannot be had whole.
        """
        name = self._numbering.cached_name(number)
        with self._fetcher.awaiting(number):
            pin, there = self._fetcher.fetch(number)
            verify = there and self._trust.is_to_verify(number)
            open_first = self._open_or_remove if there else self._open_if_there
            entry = open_first(number, pin, name, verify_hash=verify)
            if entry is None:
                pin = self._fetcher.fetch(number)[0]
                shard, pause = self._numbering.shards[number], self._stop.pause
                entry = open_pinned(shard, pin, pause=pause)
        self._trust.verified(number)
        self._stats.opened(name)
        return entry

    def open_decoded(self, number: int) -> Opened | None:
        """The decoded copy, if there is one; a damaged one goes, to be made again."""
        name = self._numbering.cached_name(number, decoded=True)
        verify = self._trust.verify_hash and name not in self._made
        try:
            if (pin := self._find_decoded(number)) is None:
                return None
            entry = self._open_or_remove(number, pin, name, decoded=True, verify_hash=verify)
        except CacheError as error:
            log.warning("%s; the shard itself is read", error)
            return None
        if entry is not None:
            self._made.add(name)
            self._stats.opened(name)
        return entry

    def keep_decoded(self, number: int, make: Callable[[Path], None], *, need_bytes: int) -> None:
        """Have the decoded copy made, unless another process has.

        Raises:
            CacheError: if it cannot be put there.
        """
        name = self._numbering.cached_name(number, decoded=True)

        def make_noted(path: Path) -> None:
            self._stats.fetched(name)  # before it is there to be opened
            make(path)

        self._fetcher.acquire(name, make_noted, need_bytes=need_bytes)[0].release()

    def ensure(self, number: int) -> None:
        """Fetch a shard, unless it is there or its decoded copy is, or the cache is left alone."""
        if (pin := self._find_decoded(number)) is not None:
            pin.release()
        else:
            self._fetcher.ensure(number)

    def wake(self) -> None:
        """Have fetches that stand aside look whether the store is closed."""
        self._fetcher.wake()

    def retire(self, number: int) -> None:
        """Let a shard as it came be the first to leave when room is needed."""
        self._cache.retire(self._numbering.cached_name(number))

    def _find_decoded(self, number: int) -> Pin | None:
        """The decoded copy, held and not opened, if there is one to be used."""
        if not self._numbering.decoded or self._trust.is_shunned(number, decoded=True):
            return None
        name = self._numbering.cached_name(number, decoded=True)
        return self._cache.find(name, stop=self._stop)

    def _open_or_remove(
        self, number: int, pin: Pin, name: str, *, decoded: bool = False, verify_hash: bool = False
    ) -> Opened | None:
        """A file that lay in the cache; None if it is gone, or removed because it is damaged."""
        try:
            return self._open_if_there(number, pin, name, decoded=decoded, verify_hash=verify_hash)
        except ShardError as error:
            log.warning("%s; it is removed from the cache and made anew", error)
            try:
                self._cache.remove(name, stop=self._stop)
            except CacheError:
                self._trust.shun(number, decoded=decoded)
                raise
            return None

    def _open_if_there(
        self, number: int, pin: Pin, name: str, *, decoded: bool = False, verify_hash: bool = False
    ) -> Opened | None:
        """A file of the cache, or None if it went after it was pinned, with its folder."""
        try:
            return open_pinned(
                self._numbering.shards[number],
                pin,
                pause=self._stop.pause,
                decoded=decoded,
                verify_hash=verify_hash,
                indexed=number not in self._trust.unindexed,
            )
        except CacheError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            log.info("%s; %s is made anew", error, name)
            return None
