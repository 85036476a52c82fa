"""Open shards by number, wherever they are: in place, or fetched ahead into the cache."""

import os
import queue
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loader.cache import ShardCache
from loader.cached import CachedShards
from loader.direct import DirectShards
from loader.fetch import Fetcher
from loader.inplace import read_in_place
from loader.lapse import Lapse
from loader.mend import Mender
from loader.numbering import Numbering
from loader.opened import Opened
from loader.order import Positions
from loader.source import Source
from loader.stats import Stats
from loader.stop import Stop, StoppedError
from loader.trust import Trust
from loader.unmounted import Mounts
from shards.errors import CacheError
from shards.reader import ShardReader

_OPEN_SHARDS = 64
_stores: "weakref.WeakSet[ShardStore]" = weakref.WeakSet()  # of this process
_stores_lock = threading.Lock()
_POLL_S = 0.1


class ShardStore:
    """The shards of a source as local files.

    ``reader`` may be called from any thread. Shards that are not on a local disk go through the
    cache; a shard that a reader waits for is fetched alone, and fetching ahead waits meanwhile.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cache: ShardCache | None,
        stats: Stats,
        *,
        mount: bool | None = None,
        decoded: str = "",
        cache_dir: Path | None = None,
        verify_hash: bool = False,
    ) -> None:
        """Open nothing yet.

        Args:
            cache: None reads shards in place: local files, and others by range.
            mount: whether local paths go through the cache; None tells by file system.
            decoded: suffix of the cache's folders with decoded shards, which are then preferred;
                the numbers of shards that were opened raw are put into ``undecoded``.
            cache_dir: where small files about shards are kept, also of those read in place.
            verify_hash: check the content of shards that lie on a disk when they are first opened.
        """
        self.undecoded: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.cache_dir = cache_dir
        self._numbering = Numbering(sources, decoded=decoded)
        self.shards = self._numbering.shards
        self._lapse, self._stop = Lapse(), Stop()
        self._trust = Trust(verify_hash=verify_hash)
        on_disk = read_in_place(self.shards, None)
        self._in_place = on_disk if mount is None else read_in_place(self.shards, mount)
        if cache is None:
            self._in_place = self._in_place.copy()
            self._in_place[:] = True
        self._mounts = Mounts(folder.local for folder in self.shards.folders)
        self._direct = DirectShards(
            self._numbering,
            stats,
            self._trust,
            on_disk=on_disk,
            mounts=self._mounts,
            stop=self._stop,
        )
        self._cache = cache
        self._cached = None if cache is None else self._make_cached(cache, stats)
        self._mender = Mender(
            self._numbering, cache, self._trust, on_disk=on_disk, pause=self._stop.pause
        )
        self._mended: set[tuple[int, bool]] = set()
        self._mending = threading.Lock()
        self._open: OrderedDict[int, Opened] = OrderedDict()
        self._opening: set[int] = set()
        self._lock = threading.Condition()
        with _stores_lock:
            _stores.add(self)

    @property
    def fetches(self) -> bool:
        """Whether any shard goes through the cache."""
        return not self._in_place.all()

    @property
    def keeps_decoded(self) -> bool:
        """Whether decoded copies of shards are looked for, and wanted."""
        return bool(self._numbering.decoded)

    @property
    def mean_sample_bytes(self) -> float:
        """Bytes that a sample takes in its shard, on average."""
        return self._numbering.mean_sample_bytes

    @property
    def cache_bytes(self) -> int:
        """Limit of the cache; 0 without one."""
        return 0 if self._cache is None else self._cache.limit_bytes

    def locate(self, sources: Positions, samples: Positions) -> tuple[Positions, Positions]:
        """Shard of this store and row in it, of sample numbers within their sources."""
        return self._numbering.locate(sources, samples)

    @contextmanager
    def reader(self, number: int) -> Iterator[ShardReader]:
        """The reader of a shard, which stays open and unevicted while the context lasts."""
        entry = self._enter(number)
        try:
            yield entry.reader
        finally:
            with self._lock:
                entry.users -= 1
                self._close_idle(0 if self._stop.is_set() else _OPEN_SHARDS)
                self._close_stale(number, entry)
            if self._cache is not None and self._cache.is_pressed():
                _close_unused_of_all()

    def ensure(self, number: int) -> None:
        """Fetch a shard into the cache, unless it is there or needs no fetching; for read-ahead.

        Raises:
            StoppedError: if the store is closed meanwhile.
        """
        if self._in_place[number]:
            return
        with self._lock:
            if number in self._open:
                return
        assert self._cached is not None
        self._cached.ensure(number)

    def keep_decoded(self, number: int, make: Callable[[Path], None], *, need_bytes: int) -> None:
        """Have the decoded copy of a shard made in the cache, unless another process has.

        From then on it is opened in place of the shard, as soon as nobody reads that one.
        """
        assert self._cached is not None
        self._cached.keep_decoded(number, make, need_bytes=need_bytes)
        with self._lock:
            if (entry := self._open.get(number)) is not None:
                entry.stale = True
                self._close_stale(number, entry)
        if not self._in_place[number]:
            self._cached.retire(number)

    def is_sound(self, number: int, reader: ShardReader) -> bool:
        """Whether a file of the cache has the SHA-256 that it came with, as far as that is known.

        Args:
            reader: of that shard as it came, in use. One read in place is what it is.
        """
        return self._mender.is_sound(number, reader)

    def mend(self, number: int, reader: ShardReader) -> bool:
        """Look after a shard of which something does not decode; whether to read it once more.

        What is damaged in the cache goes, and comes anew; a wrong index is done without. Each is
        tried once.

        Args:
            reader: of that shard, in use.
        """
        with self._mending:
            with self._lock:
                entry = self._open.get(number)
                if entry is None or entry.reader is not reader:
                    return True  # another thread has seen to it
                if (number, entry.decoded) in self._mended:
                    return False
                self._mended.add((number, entry.decoded))
                entry.users += 1
            return self._mend_or_leave(number, entry)

    def pause(self, seconds: float) -> None:
        """Wait; raise StoppedError once the store is closed."""
        self._stop.pause(seconds)

    def stop(self) -> None:
        """End fetches at their next chunk, and every wait."""
        self._stop.set()
        with self._lock:
            self._lock.notify_all()
        if self._cached is not None:
            self._cached.wake()

    def close(self) -> None:
        """Stop, and close all shards that no thread reads just now."""
        self.stop()
        self._close_unused()

    def _make_cached(self, cache: ShardCache, stats: Stats) -> CachedShards:
        fetcher = Fetcher(
            self._numbering,
            cache,
            stats,
            mounts=self._mounts,
            lapse=self._lapse,
            stop=self._stop,
            relieve=_close_unused_of_all,
        )
        return CachedShards(
            self._numbering, cache, stats, self._trust, fetcher=fetcher, stop=self._stop
        )

    def _mend_or_leave(self, number: int, entry: Opened) -> bool:
        again = False
        try:
            again = self._mender.mend(number, entry)
        finally:
            with self._lock:
                entry.users -= 1
                if again:  # the next to ask for it opens it anew
                    entry.stale = True
                    self._open.pop(number, None)
                self._close_stale(number, entry)
        return again

    def _enter(self, number: int) -> Opened:
        with self._lock:
            while number in self._opening:
                if self._stop.is_set():
                    raise StoppedError
                self._lock.wait(_POLL_S)
            entry = self._open.get(number)
            if entry is not None:
                self._open.move_to_end(number)
                entry.users += 1
                return entry
            self._opening.add(number)
        try:
            entry = self._open_shard(number)
            with self._lock:
                self._open[number] = entry
                entry.users += 1
                self._close_idle(_OPEN_SHARDS)
            return entry
        finally:
            with self._lock:
                self._opening.discard(number)
                self._lock.notify_all()

    def _open_shard(self, number: int) -> Opened:
        """A shard as fast to read as it can be had: decoded, out of the cache, or where it lies."""
        if self._cached is not None and (entry := self._cached.open_decoded(number)) is not None:
            return entry
        if self.keeps_decoded:
            self.undecoded.put(number)
        cause: CacheError | None = None
        if not self._in_place[number] and not self._trust.is_shunned(number, decoded=False):
            assert self._cached is not None
            try:
                return self._cached.open(number)
            except CacheError as error:
                cause = error
                self._lapse.begin(error)
        shard = self.shards[number]
        if self._trust.verify_hash and shard.local is None:
            raise CacheError(
                f"{shard.url}: verify_hash=True reads it whole, through a cache, and "
                f"not by range: {cause or 'what the cache has of it is damaged and cannot go'}"
            ) from cause
        return self._direct.open(number)

    def _close_stale(self, number: int, entry: Opened) -> None:
        if entry.stale and not entry.users:
            if self._open.get(number) is entry:
                del self._open[number]
            entry.close()

    def _close_unused(self) -> None:
        """Close all shards that no thread reads just now, which lets the cache evict them."""
        with self._lock:
            self._close_idle(0)

    def _close_idle(self, keep: int) -> None:
        """Close the longest unused readers beyond ``keep`` that no thread uses."""
        for number in list(self._open):
            if len(self._open) <= keep:
                return
            if not self._open[number].users:
                self._open.pop(number).close()


def _close_unused_of_all() -> None:
    """Close what no thread of this process reads, in pipelines that stand idle, too."""
    with _stores_lock:
        stores = list(_stores)
    for store in stores:
        store._close_unused()


def _forget_stores() -> None:
    """Start afresh in a child that was forked: its parent's locks may never be released there."""
    global _stores, _stores_lock
    _stores, _stores_lock = weakref.WeakSet(), threading.Lock()


os.register_at_fork(after_in_child=_forget_stores)
