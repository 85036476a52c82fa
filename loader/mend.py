"""Finds out why a sample does not decode: a damaged file of the cache, a wrong index, or itself."""

import os
from hashlib import file_digest
from pathlib import Path

import numpy as np

from shards.errors import ShardError
from shards.reader import ShardReader


def is_whole(path: Path, sha256: str | None) -> bool:
    """Whether a file of the cache is what it was when it came; False if that is not known."""
    try:
        with path.open("rb") as file:
            return sha256 is not None and file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def is_indexed_wrongly(reader: ShardReader, path: Path) -> bool:
    """Whether the samples of a tar begin elsewhere than its index says."""
    try:
        with ShardReader(path) as scanned:
            return not np.array_equal(scanned.offsets, reader.offsets)
    except (OSError, ShardError):
        return False


def is_another(reader: ShardReader, path: Path) -> bool:
    """Whether a tar was replaced since it was opened."""
    try:
        return path.stat().st_ino != reader.inode
    except OSError:
        return True


def remove_index(path: Path) -> None:
    """Have a tar of the cache scanned when it is opened next.

    Raises:
        OSError: if it cannot be removed.
    """
    os.unlink(path.with_name(f"{path.name}.idx"))
