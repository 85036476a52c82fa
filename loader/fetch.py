"""Brings shards into the cache, those that a reader waits for first."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from loader.cache import ShardCache
from loader.disk import write_whole
from loader.lapse import Lapse
from loader.numbering import Numbering
from loader.opened import digest_path, missing
from loader.pin import Pin
from loader.right_of_way import RightOfWay
from loader.stats import Stats
from loader.stop import Stop
from loader.transfer import transfer
from loader.unmounted import Mounts
from shards.errors import CacheError
from shards.index import index_bytes
from shards.reader import ShardReader

log = logging.getLogger(__name__)


class Fetcher:
    """Fetches shards by number, from any thread."""

    def __init__(
        self,
        numbering: Numbering,
        cache: ShardCache,
        stats: Stats,
        *,
        mounts: Mounts,
        lapse: Lapse,
        stop: Stop,
        relieve: Callable[[], None],
    ) -> None:
        """Fetch nothing yet.

        Args:
            lapse: while it lasts, what is not there is not fetched.
            relieve: called where the cache has no room, to let files go that can be spared.
        """
        self._numbering, self._cache, self._stats = numbering, cache, stats
        self._mounts, self._lapse, self._stop, self._relieve = mounts, lapse, stop, relieve
        self._way = RightOfWay(stop)

    def fetch(self, number: int) -> tuple[Pin, bool]:
        """A shard in the cache, and whether it was there already.

        Raises:
            StoppedError, InterruptedError: if the store is closed meanwhile.
            CacheError: if it cannot be put there.
            FetchError: if it cannot be had.
        """
        name = self._numbering.cached_name(number)
        if self._lapse.lasts:
            if (pin := self._cache.find(name, stop=self._stop)) is not None:
                return pin, True
            raise CacheError(f"{self._cache.folder}: is left alone for a while")
        size = int(self._numbering.shards.sizes[number])
        with self._stats.time("fetch"):
            return self.acquire(name, partial(self._transfer, number), need_bytes=size)

    def ensure(self, number: int) -> None:
        """Fetch a shard, unless it is there or the cache is left alone; raises as ``fetch``."""
        if not self._lapse.lasts:
            self.fetch(number)[0].release()

    def acquire(
        self, name: str, fill: Callable[[Path], None], *, need_bytes: int
    ) -> tuple[Pin, bool]:
        """A file of the cache, made by ``fill`` if need be, and whether it was there already.

        Raises:
            InterruptedError: if the store is closed meanwhile.
            CacheError: if it cannot be put there.
        """
        return self._cache.acquire(
            name, fill, need_bytes=need_bytes, stop=self._stop, relieve=self._relieve
        )

    def awaiting(self, number: int) -> AbstractContextManager[None]:
        """While a reader waits for a shard, which then comes before all others."""
        return self._way.awaiting(number)

    def wake(self) -> None:
        """Have fetches that stand aside look whether the store is closed."""
        self._way.wake()

    def _transfer(self, number: int, path: Path) -> None:
        """Copy a shard to a path, and keep beside it what tells later whether it is whole."""
        shard = self._numbering.shards[number]
        self._stats.fetched(self._numbering.cached_name(number))  # before it is there to be opened
        with self._way.coming(number):
            self._way.give_way(number)
            copy = partial(
                transfer,
                shard.url,
                path,
                storage_options=self._numbering.options_of(number),
                size=shard.info.filesize,
                sha256=shard.info.sha256,
                gate=partial(self._count, number),
                pause=self._stop.pause,
            )
            local, pause = shard.home.local, self._stop.pause
            try:
                digest = self._mounts.patiently(local, copy, shard.url, pause=pause)
            except FileNotFoundError:
                raise missing(shard) from None
        try:
            if shard.info.sha256 is None:
                write_whole(digest_path(path), digest.encode())
            if shard.info.nsamples >= 0:
                self._keep_index(number, path)
        except (CacheError, OSError) as error:  # each can be done without
            log.info("beside %s nothing is kept: %s", path, error)

    def _count(self, number: int, count: int) -> None:
        """Count bytes that came, and let who is awaited pass."""
        self._stats.count("fetched_bytes", count)
        self._way.give_way(number)

    def _keep_index(self, number: int, path: Path) -> None:
        """Make the index of a shard that came: sooner than asking a slow mount for it."""
        with ShardReader(path) as reader:
            index = partial(index_bytes, reader.offsets)
        self._cache.keep(f"{self._numbering.cached_name(number)}.idx", index)
