"""Finds out why a sample does not decode: a damaged file of the cache, a wrong index, or itself."""

import logging
from collections.abc import Callable
from functools import partial
from hashlib import file_digest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loader.cache import ShardCache
from loader.numbering import Numbering
from loader.opened import Opened, beside, content_digest, expected_digest, remove_index
from loader.patience import Pause
from loader.patient import PatientFile
from loader.trust import Trust
from shards.errors import CacheError, FetchError, ShardError
from shards.reader import ShardReader, TarFile

log = logging.getLogger(__name__)


class MendedError(Exception):
    """A shard comes anew, or its index is done without: what is in hand is to be decoded again."""


class Mender:
    """Looks after the files of shards, by number."""

    def __init__(
        self,
        numbering: Numbering,
        cache: ShardCache | None,
        trust: Trust,
        *,
        on_disk: NDArray[np.bool_],
        pause: Pause,
    ) -> None:
        """Look at nothing yet.

        Args:
            on_disk: (S,) which lie on a disk of this machine, and on no mount.
            pause: waits some seconds between attempts; may raise StoppedError.
        """
        self._numbering, self._cache, self._trust = numbering, cache, trust
        self._on_disk, self._pause = on_disk, pause

    def is_sound(self, number: int, reader: ShardReader) -> bool:
        """Whether a file of the cache has the SHA-256 that it came with, as far as that is known.

        Args:
            reader: of that shard as it came, in use. One read in place is what it is.
        """
        if self._cache is None:
            return True
        path = self._cache.folder / self._numbering.cached_name(number)
        if reader.name != str(path):
            return True
        digest = expected_digest(self._numbering.shards[number], path, decoded=False)
        return digest is None or content_digest(reader) == digest

    def mend(self, number: int, entry: Opened) -> bool:
        """Have what is damaged in the cache come anew, and a wrong index done without.

        Args:
            entry: of that shard, in use.

        Returns:
            Whether it is worth opening it anew.
        """
        name = self._numbering.cached_name(number, decoded=entry.decoded)
        if self._cache is None or entry.reader.name != str(self._cache.folder / name):
            return self._mend_in_place(number, entry)
        path = self._cache.folder / name
        try:
            shard = self._numbering.shards[number]
            if is_whole(path, expected_digest(shard, path, decoded=entry.decoded)):
                return self._mend_index(number, entry, path)
            log.warning("%s: is damaged; it is removed from the cache and made anew", path)
            self._cache.discard(name)
        except (CacheError, OSError) as error:
            log.warning("%s: is damaged and not used any more: %s", path, error)
            self._trust.shun(number, decoded=entry.decoded)
        return True

    def _mend_in_place(self, number: int, entry: Opened) -> bool:
        """A file of somebody else's: all that can be done without is its index."""
        shard = self._numbering.shards[number]
        if shard.local is None or not self._is_indexed_wrongly(number, entry, shard.local):
            return False
        log.warning("%s: its index is not its own and not used", shard.url)
        self._do_without_index(number, None)
        return True

    def _mend_index(self, number: int, entry: Opened, path: Path) -> bool:
        """A whole file of the cache: its index may be wrong, or it may be another by now."""
        if not self._is_indexed_wrongly(number, entry, path):
            return is_another(entry.reader, path)
        log.warning("%s: its index is not its own; it is scanned", path)
        if entry.decoded:
            beside(path).unlink()
        else:
            self._do_without_index(number, beside(path))
        return True

    def _is_indexed_wrongly(self, number: int, entry: Opened, path: Path) -> bool:
        mounted = path == self._numbering.shards[number].local and not self._on_disk[number]
        open_file = partial(PatientFile, path, pause=self._pause, mounted=mounted)
        return is_indexed_wrongly(entry.reader, open_file)

    def _do_without_index(self, number: int, beside_tar: Path | None) -> None:
        """Have a tar scanned when it is opened next, and in later runs if its index is ours."""
        self._trust.unindexed.add(number)
        index = self._numbering.shards[number].home.index or beside_tar
        if index is not None:
            remove_index(index)


def is_whole(path: Path, sha256: str | None) -> bool:
    """Whether a file of the cache is what it was when it came; False if that is not known."""
    try:
        with path.open("rb") as file:
            return sha256 is not None and file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def is_indexed_wrongly(reader: ShardReader, open_file: Callable[[], TarFile]) -> bool:
    """Whether the samples of a tar begin elsewhere than its index says; False if that is unknown.

    Args:
        open_file: opens it to be scanned; may raise StoppedError, as its reads may.
    """
    try:
        with ShardReader(open_file()) as scanned:
            return not np.array_equal(scanned.offsets, reader.offsets)
    except (OSError, FetchError, ShardError):
        return False


def is_another(reader: ShardReader, path: Path) -> bool:
    """Whether a tar was replaced since it was opened."""
    try:
        return path.stat().st_ino != reader.inode
    except OSError:
        return True
