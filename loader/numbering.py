"""The shards of several sources under one number each: which they are, and what is in them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from loader.catalog import Catalog
from loader.order import Positions
from loader.source import Source


class Numbering:
    """Shards of sources, numbered from the first of the first to the last of the last.

    Attributes:
        shards: all of them.
        decoded: suffix of the cache's folders with decoded copies; empty where none are kept.
    """

    def __init__(self, sources: Sequence[Source], *, decoded: str) -> None:
        self.shards = Catalog.join([source.shards for source in sources])
        self.decoded = decoded
        self._firsts = _first_samples(sources)
        self._first_shards = np.cumsum([0, *(len(source.shards) for source in sources)])
        self._options = [dict(source.options) for source in sources]

    def locate(self, sources: Positions, samples: Positions) -> tuple[Positions, Positions]:
        """Number of the shard and row in it, of sample numbers within their sources."""
        shards, rows = np.empty_like(samples), np.empty_like(samples)
        for source in np.unique(sources):
            here, firsts = sources == source, self._firsts[source]
            local = np.searchsorted(firsts, samples[here], side="right") - 1
            shards[here] = local + self._first_shards[source]
            rows[here] = samples[here] - firsts[local]
        return shards, rows

    def options_of(self, number: int) -> dict[str, Any]:
        """Options of fsspec for a shard."""
        return self._options[int(np.searchsorted(self._first_shards, number, side="right")) - 1]

    def cached_name(self, number: int, *, decoded: bool = False) -> str:
        """Name of a shard in the cache, as it came or decoded."""
        shard = self.shards[number]
        return f"{shard.folder}{self.decoded if decoded else ''}/{shard.name}"

    @property
    def mean_sample_bytes(self) -> float:
        """Bytes that a sample takes in its shard, on average."""
        return int(self.shards.sizes.sum()) / max(1, int(self.shards.nsamples.sum()))


def _first_samples(sources: Sequence[Source]) -> list[Positions]:
    """For each source, the number of the first sample of each of its shards, and their sum."""
    return [np.concatenate([[0], np.cumsum(source.rows)]) for source in sources]
