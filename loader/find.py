"""Finds the sample of a key, through ``keys.bin``; tars without one get theirs in the cache."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from loader.catalog import Catalog, Folder
from loader.disk import write_whole
from loader.patience import retry, within
from loader.source import Source
from loader.steps import Places
from loader.store import ShardStore
from loader.transfer import open_url
from shards.keys import KEYS, RECORD, find_key, keys_bytes

log = logging.getLogger(__name__)

_FOLDER = "keys"  # of the cache


class KeyFinder:
    """Keys of the samples of some sources."""

    def __init__(self, sources: Sequence[Source], store: ShardStore) -> None:
        self._sources, self._store = sources, store

    def find(self, key: str, source: int) -> Places:
        """Where the sample of a key lies in a source.

        Raises:
            KeyError: if the source has no such sample.
            StoppedError: if the store is closed meanwhile.
        """
        if not 0 <= source < len(self._sources):
            raise KeyError(f"there is no source {source}: there are {len(self._sources)}")
        before = sum(len(earlier.shards) for earlier in self._sources[:source])
        rows = self._sources[source].rows
        for number, row in self._candidates(key, self._sources[source], before):
            if row >= rows[number]:
                continue
            with self._store.reader(before + number) as reader:
                if reader.members(row)[0].key == key:
                    one = np.ones(1, dtype=np.int64)
                    return Places(one * source, one * (before + number), one * row)
        raise KeyError(f"no sample {key!r} in {self._sources[source].name}")

    def _candidates(self, key: str, source: Source, before: int) -> Iterator[tuple[int, int]]:
        """Shard and row, within a source, of samples that may have the key."""
        without: list[tuple[Folder, slice]] = []
        for folder, run in source.shards.runs():
            try:
                yield from self._in_folder(key, source, folder, run)
            except FileNotFoundError:
                without.append((folder, run))
        if without:
            yield from self._in_cache(key, source.shards, without, before)

    def _in_folder(
        self, key: str, source: Source, folder: Folder, run: slice
    ) -> Iterator[tuple[int, int]]:
        """What ``keys.bin`` of a dataset says; FileNotFoundError if there is none."""
        if not folder.url:
            raise FileNotFoundError
        numbers = source.shards.numbers[run]
        for number, row in self._in_dataset(folder.url, source, key):
            place = int(np.searchsorted(numbers, number))
            if place < len(numbers) and numbers[place] == number:  # else the subset lacks it
                yield run.start + place, row

    def _in_dataset(self, folder: str, source: Source, key: str) -> list[tuple[int, int]]:
        """Shard and row, within the dataset, of each record of a key."""
        url, pause = f"{folder}/{KEYS}", self._store.pause
        fs, path = open_url(url, dict(source.options))

        def patiently(action: Callable[[], Any]) -> Any:
            return retry(partial(within, action, pause=pause), url, pause=pause)

        records = patiently(lambda: fs.size(path)) // RECORD.itemsize

        def read_at(offset: int, size: int) -> bytes:
            end = offset + size
            data = bytes(patiently(lambda: fs.cat_file(path, start=offset, end=end)))
            return data if len(data) <= size else data[offset:end]  # a server without ranges

        return find_key(key, read_at=read_at, records=records)

    def _in_cache(
        self, key: str, shards: Catalog, without: list[tuple[Folder, slice]], before: int
    ) -> Iterator[tuple[int, int]]:
        """The same of shards without ``keys.bin``: the cache gets one of theirs when first asked.

        Without a folder to keep it in, every row may have the key.
        """
        numbers = [number for _, run in without for number in range(run.start, run.stop)]
        if self._store.cache_dir is None:
            yield from ((number, row) for number in numbers for row in range(shards.rows[number]))
            return
        path = self._store.cache_dir / _FOLDER / f"{_identity(shards, without)}.bin"
        records = int(shards.nsamples[numbers].sum())
        if (found := _find_in(path, key, records)) is None:
            data = keys_bytes(self._keys(before + number) for number in numbers)
            try:
                write_whole(path, data)
            except OSError as error:
                log.info("%s cannot be written, every look-up reads all shards: %s", path, error)
            found = find_key(key, read_at=lambda start, n: data[start : start + n], records=records)
        yield from ((numbers[place], row) for place, row in found if place < len(numbers))

    def _keys(self, number: int) -> list[str]:
        """Of a shard of the store, in the order of its rows."""
        self._store.pause(0)  # raises once the store is closed
        with self._store.reader(number) as reader:
            return [reader.members(row)[0].key for row in range(len(reader))]


def _find_in(path: Path, key: str, records: int) -> list[tuple[int, int]] | None:
    """What an index in the cache says; None if it is not there, or cut short."""
    with suppress(OSError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == records * RECORD.itemsize:
            return find_key(
                key, read_at=lambda start, n: os.pread(file.fileno(), n, start), records=records
            )
    return None


def _identity(shards: Catalog, runs: list[tuple[Folder, slice]]) -> str:
    """Of some shards and their content: the names of folders in the cache tell their versions."""
    digest = sha256()
    for folder, run in runs:
        digest.update(f"{folder.name} {run.stop - run.start} ".encode())
        digest.update(shards.numbers[run].tobytes())
    return digest.hexdigest()[:32]
