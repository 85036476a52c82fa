"""Finds out why a sample does not decode: a damaged file of the cache, a wrong index, or itself."""

from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path

import numpy as np

from shards.errors import FetchError, ShardError
from shards.reader import ShardReader, TarFile


class MendedError(Exception):
    """A shard comes anew, or its index is done without: what is in hand is to be decoded again."""


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
