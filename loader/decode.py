"""Decodes the samples of one step into a batch; what the decoding threads run."""

import threading
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from loader.batch import Batch, Rows
from loader.buffers import BufferPool
from loader.example import Facts, SampleDecoder, Scratch
from loader.known import KnownFacts
from loader.mend import MendedError
from loader.order import Positions
from loader.recipe import Recipe
from loader.skipped import Skipped
from loader.stats import Stats
from loader.steps import Places
from loader.store import ShardStore
from shards.errors import DecodeError, ShardError
from shards.reader import ShardReader

# of each shard: row of the batch and row of the shard, in the order of storage
ByShard = list[tuple[int, list[tuple[int, int]]]]

_KNOWN_BYTES = 64 * 10**6
_HELD_SHARDS = 16


@dataclass(slots=True)
class Decoded:
    """A finished batch: how many samples it holds, padding apart, and which were skipped."""

    batch: Batch
    samples: int
    skipped: list[Skipped] = field(default_factory=list)


class _Readers:
    """Readers of the shards of a batch, which stay open from its first step to its second.

    Where they are many, each is opened for each step: they would keep the cache from evicting.
    """

    def __init__(self, store: ShardStore, shards: int) -> None:
        self._store, self._hold = store, shards <= _HELD_SHARDS
        self._stack = ExitStack()
        self._held: dict[int, ShardReader] = {}

    def reader(self, number: int) -> AbstractContextManager[ShardReader]:
        if not self._hold:
            return self._store.reader(number)
        if number not in self._held:
            self._held[number] = self._stack.enter_context(self._store.reader(number))
        return nullcontext(self._held[number])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


class BatchDecoder:
    """Makes batches out of places; may be called from any number of threads."""

    def __init__(
        self,
        store: ShardStore,
        recipe: Recipe,
        stats: Stats,
        *,
        skip_errors: bool = False,
        with_source: bool = False,
        keep_buffers: int = 8,
        pinned: bool = False,
    ) -> None:
        """Prepare decoding.

        Args:
            skip_errors: an undecodable sample becomes a blank row instead of an error.
            with_source: batches tell the dataset of each sample, for mixtures.
            keep_buffers: free batch buffers to keep.
            pinned: keep them where a GPU can read them.
        """
        self._store, self._recipe, self._stats = store, recipe, stats
        self._skip_errors, self._with_source = skip_errors, with_source
        self._pool = BufferPool(2 * keep_buffers, pinned=pinned)  # audio and MIDI
        self._known = self._no_facts()
        self._extras: dict[str, NDArray[Any]] = {}
        self._local = threading.local()

    def __call__(self, places: Places, *, epoch: int, size: int) -> Decoded:
        """Decode a batch of ``size`` rows; those without a place are padding.

        Raises:
            DataError: naming sample and shard, unless errors are skipped.
        """
        while True:
            known = self._known
            try:
                decoded = self._decode(places, epoch, size, known)
            except MendedError:  # each shard is mended once
                self._known = self._no_facts()
            except DecodeError:
                if known is self._known:
                    raise
            else:
                if decoded is not None:
                    return decoded

    def _no_facts(self) -> KnownFacts:
        """Nothing is known yet, or any more: what was read of a damaged file may be wrong."""
        return KnownFacts(_KNOWN_BYTES if self._recipe.same_every_epoch else 0)

    def _decode(self, places: Places, epoch: int, size: int, known: KnownFacts) -> Decoded | None:
        """A batch; None if what was ``known`` when it began is not trusted any more."""
        began = time.perf_counter()
        skipped: dict[int, Skipped] = {}
        decoder = SampleDecoder(self._recipe, self._scratch(), epoch=epoch)
        by_shard = _by_shard(places)
        with _Readers(self._store, len(by_shard)) as readers:
            facts = self._facts(by_shard, readers, decoder, skipped, known)
            rows = Rows(self._recipe, self._pool, size, frames=self._frames(facts))
            self._fill(rows, by_shard, facts, readers, decoder, skipped)
        if known is not self._known:
            return None
        for row in range(len(places.rows), size):
            rows.blank(row)
        for row, found in skipped.items():
            rows.blank(row, found.key)
        self._complete(rows, places, epoch)
        source = self._sources(places, size) if self._with_source else None
        decoded = Decoded(rows.to_batch(source), len(places.rows), list(skipped.values()))
        clock = decoder.clock.seconds
        other = time.perf_counter() - began - sum(clock.values())
        self._stats.add_seconds(clock | {"batch": other})
        self._stats.count("notes_left_out", sum(found.left_out for found in facts.values()))
        return decoded

    def _facts(
        self,
        by_shard: ByShard,
        readers: _Readers,
        decoder: SampleDecoder,
        skipped: dict[int, Skipped],
        known: KnownFacts,
    ) -> dict[int, Facts]:
        """What is known, or read now, of the sample of each row; none of a skipped one."""
        facts: dict[int, Facts] = {}
        for number, rows in by_shard:
            unknown = []
            for row, stored in rows:
                if (found := known.find(number, stored)) is not None:
                    facts[row] = found
                else:
                    unknown.append((row, stored))
            if not unknown:
                continue
            packed = self._store.shards.home(number).is_packed
            with readers.reader(number) as reader:
                for row, stored in unknown:
                    try:
                        facts[row] = decoder.facts(reader, stored, packed=packed)
                    except (DecodeError, ShardError) as error:
                        skipped[row] = self._skip(number, reader, _key(reader, stored), error)
                    else:
                        known.keep(number, stored, facts[row])
        return facts

    def _fill(
        self,
        rows: Rows,
        by_shard: ByShard,
        facts: dict[int, Facts],
        readers: _Readers,
        decoder: SampleDecoder,
        skipped: dict[int, Skipped],
    ) -> None:
        """Complete every row whose facts are there, its audio decoded."""
        if rows.audio is None:
            for row, found in facts.items():
                decoder.fill(rows, row, found)
            return
        for number, mine in by_shard:
            with readers.reader(number) as reader:
                for row, stored in mine:
                    if row not in facts:
                        continue
                    try:
                        decoder.fill_audio(rows, row, facts[row], reader, stored)
                        decoder.fill(rows, row, facts[row])
                    except (DecodeError, ShardError) as error:
                        skipped[row] = self._skip(number, reader, facts[row].key, error)

    def _skip(
        self, number: int, reader: ShardReader, key: str, error: DecodeError | ShardError
    ) -> Skipped:
        """The sample as one to be skipped, unless errors are to be raised.

        Raises:
            DecodeError: if they are.
            MendedError: if it was not the sample that is damaged.
        """
        if self._store.mend(number, reader):
            raise MendedError
        shard = self._store.shards[number].url
        if not self._skip_errors:
            raise DecodeError(f"{shard}: sample {key!r}: {error}") from error.__cause__
        return Skipped(key, shard, str(error))

    def _frames(self, facts: dict[int, Facts]) -> int:
        """Frames of a row: the recipe's, or those of the longest sample of the batch."""
        lengths = (found.length or 1 for found in facts.values())
        return self._recipe.clip_frames or max(lengths, default=1)

    def _complete(self, rows: Rows, places: Places, epoch: int) -> None:
        """Give the batch every field that the transform adds, on every rank alike."""
        if self._recipe.transform is None:
            return
        if not self._extras and not len(places.rows):
            rows.add_extras(self._probe(epoch))
        self._extras = self._extras or rows.extras
        rows.add_extras(self._extras)

    def _probe(self, epoch: int) -> dict[str, NDArray[Any]]:
        """A blank row of each field that the transform adds to the dataset's first sample."""
        first = next(n for n, shard in enumerate(self._store.shards) if shard.rows)
        zero = np.zeros(1, dtype=np.int64)
        skipped: dict[int, Skipped] = {}
        decoder = SampleDecoder(self._recipe, self._scratch(), epoch=epoch)
        by_shard = _by_shard(Places(zero, zero + first, zero))
        with _Readers(self._store, 1) as readers:
            facts = self._facts(by_shard, readers, decoder, skipped, self._known)
            rows = Rows(self._recipe, self._pool, 1, frames=self._frames(facts))
            self._fill(rows, by_shard, facts, readers, decoder, skipped)
        return rows.extras

    def _scratch(self) -> Scratch:
        scratch: Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = Scratch()
        return scratch

    @staticmethod
    def _sources(places: Places, size: int) -> Positions:
        sources = np.zeros(size, dtype=np.int64)
        sources[: len(places.sources)] = places.sources
        return sources


def _by_shard(places: Places) -> ByShard:
    """Places in the order in which they are stored: fewer seeks, fewer open shards."""
    shards, stored = places.shards.tolist(), places.rows.tolist()
    groups: dict[int, list[tuple[int, int]]] = {}
    for row in sorted(range(len(shards)), key=lambda row: (shards[row], stored[row])):
        groups.setdefault(shards[row], []).append((row, stored[row]))
    return list(groups.items())


def _key(reader: ShardReader, row: int) -> str:
    """Key of a sample that cannot be decoded; empty where not even its headers can be read."""
    try:
        return reader.members(row)[0].key
    except ShardError:
        return ""
