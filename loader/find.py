"""Finds the sample of a key: through ``keys.bin`` where there is one, else shard by shard."""

from collections.abc import Iterator, Sequence

import numpy as np

from loader.decode import Places
from loader.source import Shard, Source
from loader.store import ShardStore
from loader.transfer import open_url, retry
from shards.keys import RECORD, find_key

_NAME = "keys.bin"


class KeyFinder:
    """Keys of the samples of some sources."""

    def __init__(self, sources: Sequence[Source], store: ShardStore) -> None:
        self._sources, self._store = sources, store

    def find(self, key: str, source: int) -> Places:
        """Where the sample of a key lies in a source.

        Raises:
            KeyError: if the source has no such sample.
        """
        if not 0 <= source < len(self._sources):
            raise KeyError(f"there is no source {source}: there are {len(self._sources)}")
        before = sum(len(earlier.shards) for earlier in self._sources[:source])
        shards = self._sources[source].shards
        for number, row in self._candidates(key, self._sources[source]):
            if row >= shards[number].rows:
                continue
            with self._store.reader(before + number) as reader:
                if reader.members(row)[0].key == key:
                    one = np.ones(1, dtype=np.int64)
                    return Places(one * source, one * (before + number), one * row)
        raise KeyError(f"no sample {key!r} in {self._sources[source].name}")

    def _candidates(self, key: str, source: Source) -> Iterator[tuple[int, int]]:
        """Shard and row, within a source, of samples that may have the key."""
        numbers: dict[str, dict[int, int]] = {}  # of each folder's shards in the source
        for number, shard in enumerate(source.shards):
            own = shard.number if shard.folder_url else number
            numbers.setdefault(shard.folder_url, {})[own] = number
        for folder, known in numbers.items():
            try:
                found = _in_keys(folder, source, key)
            except FileNotFoundError:
                yield from self._every_row(source.shards, known)
                continue
            yield from ((known[shard], row) for shard, row in found if shard in known)

    def _every_row(
        self, shards: Sequence[Shard], known: dict[int, int]
    ) -> Iterator[tuple[int, int]]:
        for number in known.values():
            for row in range(shards[number].rows):
                yield number, row


def _in_keys(folder: str, source: Source, key: str) -> list[tuple[int, int]]:
    if not folder:
        raise FileNotFoundError
    url = f"{folder}/{_NAME}"
    fs, path = open_url(url, dict(source.options))
    records = retry(lambda: fs.size(path), url) // RECORD.itemsize

    def read_at(offset: int, size: int) -> bytes:
        end = offset + size
        data = bytes(retry(lambda: fs.cat_file(path, start=offset, end=end), url))
        return data if len(data) <= size else data[offset:end]  # a server without ranges

    return find_key(key, read_at=read_at, records=records)
