"""Shards that are open: in place, or in the cache and pinned there."""

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from loader.cache import Pin
from loader.catalog import Shard
from loader.mapped import MappedReader
from loader.remote import RemoteFile, open_remote
from shards.errors import FetchError, ShardError
from shards.manifest import require_size
from shards.reader import ShardReader

log = logging.getLogger(__name__)


class Opened:
    """A reader that threads share, and how many of them use it now."""

    def __init__(self, reader: ShardReader, pin: Pin | None) -> None:
        self.reader = reader
        self.users = 0
        self.stale = False  # a decoded copy is there: close it once nobody uses it
        self._pin = pin

    def close(self) -> None:
        self.reader.close()
        if self._pin is not None:
            self._pin.release()


def open_in_place(shard: Shard, pin: Pin | None, *, verify_hash: bool = False) -> Opened:
    """A shard where it lies.

    Args:
        verify_hash: read all of it once and compare its SHA-256, too.

    Raises:
        FetchError: if it is not there.
        ShardError: if it is not what its manifest says.
    """
    assert shard.local is not None
    try:
        return Opened(_reader(shard, shard.local, verify_hash=verify_hash), pin)
    except BaseException:
        if pin is not None:
            pin.release()
        raise


def open_by_range(
    shard: Shard,
    options: dict[str, Any],
    *,
    pause: Callable[[float], object],
    count: Callable[[int], None],
) -> Opened:
    """A shard behind a URL, of which only what is asked for is read.

    Args:
        options: of fsspec.
        pause: waits some seconds between attempts; may raise StoppedError.
        count: told the bytes that came.

    Raises:
        FetchError: if it is not there.
        ShardError: if it is damaged.
    """
    size, samples = shard.info.filesize, shard.info.nsamples
    try:
        file = RemoteFile(shard.url, size=size, storage_options=options, pause=pause, count=count)
        known = samples if samples >= 0 else None
        return Opened(open_remote(file, samples=known, options=options), None)
    except FileNotFoundError:
        raise missing(shard) from None


def open_pinned(
    shard: Shard, pin: Pin, *, decoded: bool = False, verify_hash: bool = False
) -> Opened:
    """A shard, or its decoded copy, in the cache; the pin is released where that fails.

    Raises:
        ShardError: if it is not what its manifest says.
    """
    try:
        open_reader = _copy_reader if decoded else partial(_reader, verify_hash=verify_hash)
        return Opened(_cached_reader(shard, pin.path, open_reader), pin)
    except BaseException:
        pin.release()
        raise


def missing(shard: Shard) -> FetchError:
    """The error for a shard that is not there."""
    named = "; its manifest names it: copy it there" if shard.home.url else ""
    return FetchError(f"{shard.url}: the shard is missing{named}")


def _cached_reader(
    shard: Shard, path: Path, open_reader: Callable[[Shard, Path], ShardReader]
) -> ShardReader:
    """A reader of a cached file. An index that does not fit it goes, and it is scanned."""
    try:
        return open_reader(shard, path)
    except ShardError as error:
        index = path.with_name(f"{path.name}.idx")
        if not index.exists():
            raise
        index.unlink(missing_ok=True)
        log.warning("%s; opened once more without an index", error)
        return open_reader(shard, path)


def _copy_reader(shard: Shard, path: Path) -> ShardReader:
    return MappedReader(path, samples=shard.info.nsamples)


def _reader(shard: Shard, path: Path, *, verify_hash: bool) -> ShardReader:
    """A reader of a shard whose size and number of samples are the manifest's."""
    info, known = shard.info, shard.info.nsamples >= 0
    try:
        if known:
            require_size(str(path), path.stat().st_size, info.filesize)
        if verify_hash and _sha256(path) != info.sha256:
            raise ShardError(
                f"{path}: its content is not what the manifest says (SHA-256 differs): copy it "
                "anew, or find out what is damaged with: python -m packer verify"
            )
        return ShardReader(path, samples=info.nsamples if known else None, index=shard.home.index)
    except FileNotFoundError:
        raise missing(shard) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
