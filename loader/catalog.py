"""The shards of a source, by columns: many of them cost little time and memory."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loader.order import Positions
from shards.manifest import Manifest, ShardInfo, ShardTable, fingerprint

_LONGEST_NAME = 200  # bytes: in the cache, locks and parts have longer names than a shard


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """What shards have in common: those of a manifest, or one tar without any.

    Attributes:
        name: of their folder in the cache.
        prefix: of their URLs, before what the table says.
        local: path of that, where it is this machine's file system.
        infos: what is known of each; ``nsamples`` is -1 until a foreign tar is indexed.
        fingerprint: of ``infos``; empty where it is still to be computed.
        manifest: None for a tar without one.
        index: where the offsets of such a tar are kept, if they are.
        asked: the URL that it was asked for by, one of a list perhaps.
    """

    name: str
    prefix: str
    local: Path | None
    infos: ShardTable
    fingerprint: str = ""
    manifest: Manifest | None = None
    index: Path | None = None
    asked: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else wrote the shards, so that no manifest tells what they hold."""
        return self.manifest is None or not self.manifest.fields

    @property
    def is_packed(self) -> bool:
        """Whether the packer made all of the samples, and did not only index them."""
        return self.manifest is not None and "input_sha256" in self.manifest.options

    @property
    def is_counted(self) -> bool:
        """Whether it is known how many samples there are."""
        return bool(np.all(self.infos.nsamples >= 0))

    @property
    def url(self) -> str:
        """Of the dataset's folder, where ``keys.bin`` is; empty for a tar without a manifest."""
        return "" if self.manifest is None else self.prefix.removesuffix("/")


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar to read.

    Attributes:
        home: its folder.
        number: which shard of that folder it is.
        rows: how many of its samples belong to the dataset, the first ones.
    """

    home: Folder
    number: int
    rows: int

    @property
    def info(self) -> ShardInfo:
        """What the manifest says of it."""
        return self.home.infos[self.number]

    @property
    def url(self) -> str:
        return self.home.prefix + self.home.infos.urls[self.number]

    @property
    def local(self) -> Path | None:
        """Its path, where it is on this machine's file system."""
        return None if self.home.local is None else self.home.local / self.info.url

    @property
    def folder(self) -> str:
        """Name of its folder in the cache."""
        return self.home.name

    @property
    def name(self) -> str:
        """Of its file, within that folder."""
        url = self.home.infos.urls[self.number]
        folder, _, base = url.rpartition("/")
        if len(base.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
            folder, base = url, "shard.tar"
        return (
            f"{sha256(folder.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}-{base}"
            if folder
            else base
        )


class Catalog:
    """Shards in order, folder after folder; each is made when it is asked for."""

    def __init__(
        self, folders: Sequence[Folder], counts: Sequence[int], numbers: Positions, rows: Positions
    ) -> None:
        """Lay out shards.

        Args:
            counts: how many shards of each folder there are.
            numbers: (S,) which shard of its folder each one is, rising within a folder.
            rows: (S,) how many of its samples belong to the source.
        """
        self.folders, self.numbers, self.rows = tuple(folders), numbers, rows
        self._borders = np.cumsum([0, *counts]).tolist()

    @classmethod
    def of(cls, folders: Sequence[Folder]) -> "Catalog":
        """All shards of some folders, whole."""
        numbers = [np.arange(len(folder.infos)) for folder in folders]
        rows = [folder.infos.nsamples for folder in folders]
        return cls(folders, [len(folder.infos) for folder in folders], _join(numbers), _join(rows))

    @classmethod
    def join(cls, catalogs: Sequence["Catalog"]) -> "Catalog":
        """Catalogs end to end."""
        return cls(
            [folder for catalog in catalogs for folder in catalog.folders],
            [run.stop - run.start for catalog in catalogs for _, run in catalog.runs()],
            _join([catalog.numbers for catalog in catalogs]),
            _join([catalog.rows for catalog in catalogs]),
        )

    def take(self, places: Positions, rows: Positions) -> "Catalog":
        """The shards at some places, which rise, with other numbers of rows."""
        counts = np.diff(np.searchsorted(places, self._borders)).tolist()
        return Catalog(self.folders, counts, self.numbers[places], rows)

    def runs(self) -> Iterator[tuple[Folder, slice]]:
        """Each folder and where its shards are."""
        stops = zip(self._borders, self._borders[1:], strict=False)
        return ((f, slice(*run)) for f, run in zip(self.folders, stops, strict=True))

    def used_folders(self) -> list[Folder]:
        """The folders that have a shard here."""
        return [folder for folder, run in self.runs() if run.stop > run.start]

    @cached_property
    def nsamples(self) -> Positions:
        """(S,) samples in each shard, those that do not belong to the source included."""
        return _join([f.infos.nsamples[self.numbers[run]] for f, run in self.runs()])

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(S,) bytes of each shard; 0 where that is not known."""
        return _join([f.infos.known_bytes[self.numbers[run]] for f, run in self.runs()])

    @property
    def names(self) -> list[str]:
        """Of the shards' files."""
        found = (f.infos.urls[n] for f, run in self.runs() for n in self.numbers[run].tolist())
        return [name.rpartition("/")[2] for name in found]

    @property
    def fingerprint(self) -> str:
        """Identity of the content, wherever it lies; see ``shards.manifest.fingerprint``."""
        used = self.used_folders()
        if len(used) == 1 and used[0].fingerprint and len(self) == len(used[0].infos):
            return used[0].fingerprint
        return fingerprint(info for folder, run in self.runs() for info in self._infos(folder, run))

    def home(self, number: int) -> Folder:
        """The folder of a shard, counted from 0: at a fraction of the cost of the shard."""
        return self.folders[bisect_right(self._borders, number) - 1]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Shard:
        number = range(len(self))[number]
        return Shard(self.home(number), int(self.numbers[number]), int(self.rows[number]))

    def _infos(self, folder: Folder, run: slice) -> Iterable[ShardInfo]:
        if run.stop - run.start == len(folder.infos):
            return folder.infos
        return (folder.infos[number] for number in self.numbers[run].tolist())


def _join(arrays: Sequence[Positions]) -> Positions:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)
