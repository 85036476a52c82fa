"""Open shards by number, wherever they are: in place, or fetched ahead into the cache."""

import logging
import os
import queue
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loader.cache import ShardCache
from loader.catalog import Catalog, Shard
from loader.disk import write_whole
from loader.inplace import read_in_place
from loader.lapse import Lapse
from loader.mend import is_another, is_indexed_wrongly, is_whole
from loader.opened import (
    Opened,
    beside,
    content_digest,
    digest_path,
    expected_digest,
    missing,
    open_by_range,
    open_in_place,
    open_pinned,
    remove_index,
)
from loader.order import Positions
from loader.patience import PATIENCE
from loader.patient import PatientFile
from loader.pin import Pin, pin_if_cached
from loader.source import Source
from loader.stats import Stats
from loader.transfer import StoppedError, transfer
from loader.unmounted import Mounts
from shards.errors import CacheError, ShardError
from shards.index import index_bytes
from shards.reader import ShardReader

log = logging.getLogger(__name__)

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
        self._verify_hash, self._verified = verify_hash, set[int]()
        self.undecoded: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.cache_dir = cache_dir
        self._decoded = decoded
        self.shards = Catalog.join([source.shards for source in sources])
        self._firsts = _first_samples(sources)
        self._first_shards = np.cumsum([0, *(len(source.shards) for source in sources)])
        self._options = [dict(source.options) for source in sources]
        self._cache, self._stats = cache, stats
        self._on_disk = read_in_place(self.shards, None)
        self._in_place = self._on_disk if mount is None else read_in_place(self.shards, mount)
        if cache is None:
            self._in_place = self._in_place.copy()
            self._in_place[:] = True
        self._open: OrderedDict[int, Opened] = OrderedDict()
        self._lock = threading.Condition()
        self._opening: set[int] = set()
        self._wanted: Counter[int] = Counter()  # shards that readers wait for
        self._coming: dict[int, float] = {}  # shards on their way, and when a byte last came
        self._mounts = Mounts(folder.local for folder in self.shards.folders)
        self._lapse = Lapse()
        self._made: set[str] = set()  # decoded copies that need no further look at their hash
        self._mended: set[tuple[int, bool]] = set()
        self._mending = threading.Lock()
        self._unindexed: set[int] = set()
        self._shunned: set[tuple[int, bool]] = set()  # damaged in a cache that cannot be written
        self._stop = threading.Event()
        with _stores_lock:
            _stores.add(self)

    @property
    def fetches(self) -> bool:
        """Whether any shard goes through the cache."""
        return not self._in_place.all()

    def locate(self, sources: Positions, samples: Positions) -> tuple[Positions, Positions]:
        """Shard of this store and row in it, of sample numbers within their sources."""
        shards, rows = np.empty_like(samples), np.empty_like(samples)
        for source in np.unique(sources):
            here, firsts = sources == source, self._firsts[source]
            local = np.searchsorted(firsts, samples[here], side="right") - 1
            shards[here] = local + self._first_shards[source]
            rows[here] = samples[here] - firsts[local]
        return shards, rows

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

    @property
    def keeps_decoded(self) -> bool:
        """Whether decoded copies of shards are looked for, and wanted."""
        return bool(self._decoded)

    def keep_decoded(self, number: int, make: Callable[[Path], None], *, need_bytes: int) -> None:
        """Have the decoded copy of a shard made in the cache, unless another process has.

        From then on it is opened in place of the shard, as soon as nobody reads that one.
        """
        assert self._cache is not None
        name = self._decoded_name(number)

        def make_noted(path: Path) -> None:
            self._stats.fetched(name)  # before it is there to be opened
            make(path)

        pin, _ = self._cache.acquire(
            name, make_noted, need_bytes=need_bytes, stop=self._stop, relieve=_close_unused_of_all
        )
        pin.release()
        with self._lock:
            if (entry := self._open.get(number)) is not None:
                entry.stale = True
                self._close_stale(number, entry)
        if not self._in_place[number]:
            self._cache.retire(self._raw_name(number))

    def is_sound(self, number: int, reader: ShardReader) -> bool:
        """Whether a file of the cache has the SHA-256 that it came with, as far as that is known.

        Args:
            reader: of that shard as it came, in use. One read in place is what it is.
        """
        if self._cache is None or reader.name != str(self._cache.folder / self._raw_name(number)):
            return True
        digest = expected_digest(self.shards[number], Path(reader.name), decoded=False)
        return digest is None or content_digest(reader) == digest

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

    def _mend_or_leave(self, number: int, entry: Opened) -> bool:
        again = False
        try:
            again = self._mend(number, entry)
        finally:
            with self._lock:
                entry.users -= 1
                if again:  # the next to ask for it opens it anew
                    entry.stale = True
                    self._open.pop(number, None)
                self._close_stale(number, entry)
        return again

    def _mend(self, number: int, entry: Opened) -> bool:
        shard = self.shards[number]
        name = self._decoded_name(number) if entry.decoded else self._raw_name(number)
        path = Path() if self._cache is None else self._cache.folder / name
        if entry.reader.name != str(path):  # not out of the cache
            if shard.local is None or not self._is_indexed_wrongly(number, entry, shard.local):
                return False
            log.warning("%s: its index is not its own and not used", shard.url)
            self._do_without_index(number, None)
            return True
        try:
            if is_whole(path, expected_digest(shard, path, decoded=entry.decoded)):
                if not self._is_indexed_wrongly(number, entry, path):
                    return is_another(entry.reader, path)
                log.warning("%s: its index is not its own; it is scanned", path)
                if entry.decoded:
                    beside(path).unlink()
                else:
                    self._do_without_index(number, beside(path))
                return True
            log.warning("%s: is damaged; it is removed from the cache and made anew", path)
            assert self._cache is not None
            self._cache.discard(name)
        except (CacheError, OSError) as error:
            log.warning("%s: is damaged and not used any more: %s", path, error)
            self._shunned.add((number, entry.decoded))
        return True

    def _is_indexed_wrongly(self, number: int, entry: Opened, path: Path) -> bool:
        mounted = path == self.shards[number].local and not self._on_disk[number]
        open_file = partial(PatientFile, path, pause=self.pause, mounted=mounted)
        return is_indexed_wrongly(entry.reader, open_file)

    def _do_without_index(self, number: int, beside_tar: Path | None) -> None:
        """Have a tar scanned when it is opened next, and in later runs if its index is ours."""
        self._unindexed.add(number)
        index = self.shards[number].home.index or beside_tar
        if index is not None:
            remove_index(index)

    def _raw_name(self, number: int) -> str:
        shard = self.shards[number]
        return f"{shard.folder}/{shard.name}"

    def _decoded_name(self, number: int) -> str:
        shard = self.shards[number]
        return f"{shard.folder}{self._decoded}/{shard.name}"

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
        if (pin := self._find_decoded(number)) is not None:
            pin.release()
            return
        if not self._lapse.lasts:
            self._fetch(number)[0].release()

    @property
    def mean_sample_bytes(self) -> float:
        """Bytes that a sample takes in its shard, on average."""
        return int(self.shards.sizes.sum()) / max(1, int(self.shards.nsamples.sum()))

    @property
    def cache_bytes(self) -> int:
        """Limit of the cache; 0 without one."""
        return 0 if self._cache is None else self._cache.limit_bytes

    def pause(self, seconds: float) -> None:
        """Wait; raise StoppedError once the store is closed."""
        if self._stop.wait(seconds):
            raise StoppedError

    def stop(self) -> None:
        """End fetches at their next chunk, and every wait."""
        self._stop.set()
        with self._lock:
            self._lock.notify_all()

    def close(self) -> None:
        """Stop, and close all shards that no thread reads just now."""
        self.stop()
        self._close_unused()

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
        if (entry := self._open_decoded(number)) is not None:
            return entry
        if self._decoded:
            self.undecoded.put(number)
        cause: CacheError | None = None
        if not self._in_place[number] and (number, False) not in self._shunned:
            try:
                return self._open_cached(number)
            except CacheError as error:
                cause = error
                self._lapse.begin(error)
        if self._verify_hash and self.shards[number].local is None:
            raise CacheError(
                f"{self.shards[number].url}: verify_hash=True reads it whole, through a cache, and "
                f"not by range: {cause or 'what the cache has of it is damaged and cannot go'}"
            ) from cause
        return self._open_direct(number)

    def _open_direct(self, number: int) -> Opened:
        """A shard where it lies."""
        shard = self.shards[number]
        if shard.local is None:
            options = self._options_of(number)
            count = partial(self._stats.count, "fetched_bytes")
            return open_by_range(shard, options, pause=self.pause, count=count)
        verify = self._is_unverified(number)
        opener = partial(self._open_in_place, number, shard, verify_hash=verify)
        try:
            entry = self._mounts.patiently(shard.home.local, opener, shard.url, pause=self.pause)
        except FileNotFoundError:
            raise missing(shard) from None
        if entry.is_pinned:
            self._stats.opened(str(shard.local))
        self._verified.add(number)
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
            pause=self.pause,
            mounted=not on_disk,
            verify_hash=verify_hash,
            indexed=number not in self._unindexed,
        )

    def _open_decoded(self, number: int) -> Opened | None:
        """The decoded copy, if there is one; a damaged one goes, to be made again."""
        name = self._decoded_name(number)
        verify = self._verify_hash and name not in self._made
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

    def _open_cached(self, number: int) -> Opened:
        """A shard out of the cache; one that was damaged there is fetched once more."""
        name = self._raw_name(number)
        with self._wanting(number):
            pin, there = self._fetch(number)
            verify = there and self._is_unverified(number)
            open_first = self._open_or_remove if there else self._open_if_there
            entry = open_first(number, pin, name, verify_hash=verify)
            if entry is None:
                pin = self._fetch(number)[0]
                entry = open_pinned(self.shards[number], pin, pause=self.pause)
        self._verified.add(number)
        self._stats.opened(name)
        return entry

    def _is_unverified(self, number: int) -> bool:
        return self._verify_hash and number not in self._verified

    def _open_or_remove(
        self, number: int, pin: Pin, name: str, *, decoded: bool = False, verify_hash: bool = False
    ) -> Opened | None:
        """A file that lay in the cache; None if it is gone, or removed because it is damaged."""
        assert self._cache is not None
        try:
            return self._open_if_there(number, pin, name, decoded=decoded, verify_hash=verify_hash)
        except ShardError as error:
            log.warning("%s; it is removed from the cache and made anew", error)
            try:
                self._cache.remove(name, stop=self._stop)
            except CacheError:
                self._shunned.add((number, decoded))
                raise
            return None

    def _open_if_there(
        self, number: int, pin: Pin, name: str, *, decoded: bool = False, verify_hash: bool = False
    ) -> Opened | None:
        """A file of the cache, or None if it went after it was pinned, with its folder."""
        indexed = number not in self._unindexed
        try:
            return open_pinned(
                self.shards[number],
                pin,
                pause=self.pause,
                decoded=decoded,
                verify_hash=verify_hash,
                indexed=indexed,
            )
        except CacheError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            log.info("%s; %s is made anew", error, name)
            return None

    def _find_decoded(self, number: int) -> Pin | None:
        if not self._decoded or self._cache is None or (number, True) in self._shunned:
            return None
        return self._cache.find(self._decoded_name(number), stop=self._stop)

    def _fetch(self, number: int) -> tuple[Pin, bool]:
        """A shard in the cache, and whether it was there already."""
        assert self._cache is not None
        name = self._raw_name(number)
        if self._lapse.lasts:
            if (pin := self._cache.find(name, stop=self._stop)) is not None:
                return pin, True
            raise CacheError(f"{self._cache.folder}: is left alone for a while")
        with self._stats.time("fetch"):
            return self._cache.acquire(
                name,
                lambda path: self._transfer(number, path),
                need_bytes=int(self.shards.sizes[number]),
                stop=self._stop,
                relieve=_close_unused_of_all,
            )

    def _transfer(self, number: int, path: Path) -> None:
        shard = self.shards[number]
        self._stats.fetched(self._raw_name(number))  # before it is there to be opened
        with self._on_its_way(number):
            self._gate(number, 0)
            copy = partial(
                transfer,
                shard.url,
                path,
                storage_options=self._options_of(number),
                size=shard.info.filesize,
                sha256=shard.info.sha256,
                gate=lambda count: self._gate(number, count),
                pause=self.pause,
            )
            try:
                digest = self._mounts.patiently(shard.home.local, copy, shard.url, pause=self.pause)
            except FileNotFoundError:
                raise missing(shard) from None
        try:
            if shard.info.sha256 is None:
                write_whole(digest_path(path), digest.encode())
            if shard.info.nsamples >= 0:
                self._keep_index(number, path)
        except (CacheError, OSError) as error:  # each can be done without
            log.info("beside %s nothing is kept: %s", path, error)

    def _keep_index(self, number: int, path: Path) -> None:
        """Make the index of a shard that came: sooner than asking a slow mount for it."""
        assert self._cache is not None
        with ShardReader(path) as reader:
            index = partial(index_bytes, reader.offsets)
        self._cache.keep(f"{self._raw_name(number)}.idx", index)

    def _options_of(self, number: int) -> dict[str, Any]:
        return self._options[int(np.searchsorted(self._first_shards, number, side="right")) - 1]

    def _gate(self, number: int, count: int) -> None:
        """Let a transfer go on once no reader waits for another one that is under way."""
        self._stats.count("fetched_bytes", count)
        with self._lock:
            self._coming[number] = time.monotonic()
            while number not in self._wanted and self._is_awaited():
                if self._stop.is_set():
                    break
                self._lock.wait(_POLL_S)
        if self._stop.is_set():
            raise StoppedError

    def _is_awaited(self) -> bool:
        """Whether a shard that a reader waits for is on its way, and does not stall."""
        since = time.monotonic() - PATIENCE.aside_s
        return any(self._coming.get(number, 0.0) > since for number in self._wanted)

    @contextmanager
    def _wanting(self, number: int) -> Iterator[None]:
        with self._lock:
            self._wanted[number] += 1
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= Counter([number])
                self._lock.notify_all()

    @contextmanager
    def _on_its_way(self, number: int) -> Iterator[None]:
        with self._lock:
            self._coming[number] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._coming.pop(number, None)  # a cache that is deleted has two come at once
                self._lock.notify_all()

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


def _first_samples(sources: Sequence[Source]) -> list[Positions]:
    """For each source, the number of the first sample of each of its shards, and their sum."""
    return [np.concatenate([[0], np.cumsum(source.rows)]) for source in sources]
