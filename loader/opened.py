"""Shards that are open: in place, or in the cache and pinned there."""

import logging
from pathlib import Path

from loader.cache import Pin
from loader.catalog import Shard
from loader.mapped import MappedReader
from shards.errors import FetchError, ShardError
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


def open_in_place(shard: Shard, pin: Pin | None) -> Opened:
    """A shard where it lies.

    Raises:
        FetchError: if it is not there.
        ShardError: if it is not what its manifest says.
    """
    assert shard.local is not None
    try:
        return Opened(_reader(shard, shard.local), pin)
    except BaseException:
        if pin is not None:
            pin.release()
        raise


def open_pinned(shard: Shard, pin: Pin, *, decoded: bool = False) -> Opened:
    """A shard, or its decoded copy, in the cache; the pin is released where that fails.

    Raises:
        ShardError: if it is not what its manifest says.
    """
    try:
        return Opened(_cached_reader(shard, pin.path, decoded=decoded), pin)
    except BaseException:
        pin.release()
        raise


def missing(shard: Shard) -> FetchError:
    """The error for a shard that is not there."""
    named = "; its manifest names it: copy it there" if shard.home.url else ""
    return FetchError(f"{shard.url}: the shard is missing{named}")


def _cached_reader(shard: Shard, path: Path, *, decoded: bool) -> ShardReader:
    """A reader of a cached file. An index that does not fit it goes, and it is scanned."""
    open_reader = _copy_reader if decoded else _reader
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


def _reader(shard: Shard, path: Path) -> ShardReader:
    """A reader of a shard whose size and number of samples are the manifest's."""
    info, known = shard.info, shard.info.nsamples >= 0
    try:
        size = path.stat().st_size
        if known and info.filesize is not None and size != info.filesize:
            raise ShardError(
                f"{path}: has {size} bytes, its manifest says {info.filesize}: truncated or of "
                "another version. Find out with: python -m packer verify"
            )
        return ShardReader(path, samples=info.nsamples if known else None, index=shard.home.index)
    except FileNotFoundError:
        raise missing(shard) from None
