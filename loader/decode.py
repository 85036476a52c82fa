"""Decodes the samples of one step into a batch; what the decoding threads run."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loader.batch import Batch, Rows
from loader.buffers import BufferPool
from loader.example import Clock, Scratch, fill_row, read_example, whole_frames
from loader.mixture import Mixture
from loader.order import Positions
from loader.recipe import Recipe
from loader.stats import Stats
from loader.store import ShardStore
from shards.errors import DecodeError, ShardError


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that could not be decoded."""

    key: str
    shard: str
    reason: str


@dataclass(slots=True)
class Decoded:
    """A finished batch: how many samples it holds, padding apart, and which were skipped."""

    batch: Batch
    samples: int
    skipped: list[Skipped] = field(default_factory=list)


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
    ) -> None:
        """Prepare decoding.

        Args:
            skip_errors: an undecodable sample becomes a blank row instead of an error.
            with_source: batches tell the dataset of each sample, for mixtures.
            keep_buffers: free batch buffers to keep.
        """
        self._store, self._recipe, self._stats = store, recipe, stats
        self._skip_errors, self._with_source = skip_errors, with_source
        self._pool = BufferPool(2 * keep_buffers)  # audio and MIDI
        self._extras: dict[str, NDArray[Any]] = {}
        self._local = threading.local()

    def __call__(self, places: Places, *, epoch: int, size: int) -> Decoded:
        """Decode a batch of ``size`` rows; those without a place are padding.

        Raises:
            DataError: naming sample and shard, unless errors are skipped.
        """
        began, clock, recipe = time.perf_counter(), Clock(), self._recipe
        frames = recipe.clip_frames or self._longest(places)
        rows = Rows(recipe, self._pool, size, frames=frames)
        skipped: list[Skipped] = []
        left_out = 0
        for row in _by_shard(places):
            left_out += self._fill(rows, row, places, epoch, clock, skipped)
        for row in range(len(places.rows), size):
            rows.blank(row)
        self._complete(rows, places, epoch)
        source = self._sources(places, size) if self._with_source else None
        decoded = Decoded(rows.to_batch(source), len(places.rows), skipped)
        other = time.perf_counter() - began - sum(clock.seconds.values())
        self._stats.add_seconds(clock.seconds | {"batch": other})
        self._stats.count("notes_left_out", left_out)
        return decoded

    def _fill(
        self,
        rows: Rows,
        row: int,
        places: Places,
        epoch: int,
        clock: Clock,
        skipped: list[Skipped],
    ) -> int:
        """Decode one sample into its row, or skip it; how many notes were left out."""
        number, stored_row = int(places.shards[row]), int(places.rows[row])
        key, shard = "", self._store.shards[number].url
        with self._store.reader(number) as reader:
            clock.restart()
            try:
                key = reader.members(stored_row)[0].key
                example = read_example(reader, stored_row, self._recipe, self._scratch())
                clock.lap("read")
                return fill_row(rows, row, example, self._recipe, epoch=epoch, clock=clock)
            except (DecodeError, ShardError) as error:
                if not self._skip_errors:
                    raise DecodeError(f"{shard}: sample {key!r}: {error}") from error
                rows.blank(row, key)
                skipped.append(Skipped(key, shard, str(error)))
                return 0

    def _complete(self, rows: Rows, places: Places, epoch: int) -> None:
        """Give the batch every field that the transform adds, on every rank alike."""
        if self._recipe.transform is None:
            return
        if not self._extras and not len(places.rows):
            probe = Rows(self._recipe, self._pool, 1, frames=self._recipe.clip_frames or 1)
            first = next(n for n, shard in enumerate(self._store.shards) if shard.rows)
            zero = np.zeros(1, dtype=np.int64)
            self._fill(probe, 0, Places(zero, zero + first, zero), epoch, Clock(), [])
            rows.add_extras(probe.extras)
        self._extras = self._extras or rows.extras
        rows.add_extras(self._extras)

    def _longest(self, places: Places) -> int:
        """Frames of the longest sample of a batch of whole samples."""
        longest = 1
        if "audio" not in self._recipe.fields:
            return longest
        for row in _by_shard(places):
            with self._store.reader(int(places.shards[row])) as reader:
                stored_row = int(places.rows[row])
                with suppress(DecodeError, ShardError):  # decoding it meets the same, and tells
                    example = read_example(reader, stored_row, self._recipe, self._scratch())
                    longest = max(longest, whole_frames(example, self._recipe))
        return longest

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


def _by_shard(places: Places) -> list[int]:
    """Rows in the order in which their samples are stored: fewer seeks, fewer open shards."""
    order: list[int] = np.lexsort((places.rows, places.shards)).tolist()
    return order
