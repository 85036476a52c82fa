"""Shards that are open: in place, or in the cache and pinned there."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from loader.catalog import Shard
from loader.mapped import MappedReader
from loader.patience import Pause, retry, within
from loader.patient import PatientFile
from loader.pin import Pin
from loader.remote import RemoteFile, open_remote
from shards.errors import CacheError, FetchError, ShardError
from shards.manifest import require_size
from shards.reader import ShardReader, read_index

log = logging.getLogger(__name__)

_CHUNK_BYTES = 4 << 20


class Opened:
    """A reader that threads share, and how many of them use it now."""

    def __init__(self, reader: ShardReader, pin: Pin | None, *, decoded: bool = False) -> None:
        self.reader, self.decoded = reader, decoded
        self.users = 0
        self.stale = False  # another file is there to be read: close it once nobody uses it
        self._pin = pin

    @property
    def is_pinned(self) -> bool:
        """Whether it is a file of a cache, held there."""
        return self._pin is not None

    def close(self) -> None:
        self.reader.close()
        if self._pin is not None:
            self._pin.release()


def open_in_place(
    shard: Shard,
    pin: Pin | None,
    *,
    pause: Pause,
    mounted: bool,
    verify_hash: bool = False,
    indexed: bool = True,
) -> Opened:
    """A shard where it lies; the pin is released where that fails.

    Args:
        pause: waits some seconds between attempts; may raise StoppedError.
        mounted: it lies on no disk of this machine.
        verify_hash: read all of it once and compare its SHA-256, too.
        indexed: whether its index may be used, if it has one.

    Raises:
        FileNotFoundError: if it is not there.
        FetchError: if it cannot be read.
        ShardError: if it is not what its manifest says.
    """
    assert shard.local is not None
    try:
        open_file = partial(PatientFile, shard.local, pause=pause, mounted=mounted)
        index = _index_of(shard, shard.local, pause, mounted=mounted) if indexed else None
        try:
            reader = _reader(shard, open_file(), index, verify_hash=verify_hash)
        except ShardError as error:
            if index is None:
                raise
            if shard.home.index is not None:
                remove_index(shard.home.index)
            log.warning("%s; opened once more without an index", error)
            reader = _reader(shard, open_file(), None, verify_hash=verify_hash)
        return Opened(reader, pin)
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
    shard: Shard,
    pin: Pin,
    *,
    pause: Pause,
    decoded: bool = False,
    verify_hash: bool = False,
    indexed: bool = True,
) -> Opened:
    """A shard, or its decoded copy, in the cache; the pin is released where that fails.

    Args:
        indexed: whether the index of a shard may be used, if it has one; a copy's always is.

    Raises:
        ShardError: if it is not what its manifest says, or, decoded, not what was made.
        CacheError: if it is gone again, with the folder that it lay in.
    """
    digest = expected_digest(shard, pin.path, decoded=decoded) if verify_hash else None
    try:
        open_reader: Callable[[], ShardReader]
        if decoded:
            open_reader = partial(MappedReader, pin.path, samples=shard.info.nsamples)
            reader = _scanned_if_need_be(open_reader, beside(pin.path))
        else:
            open_reader = partial(_cached_reader, shard, pin.path, pause=pause, indexed=indexed)
            reader = _scanned_if_need_be(open_reader, index_path(shard, pin.path))
        try:
            require_digest(reader, digest)
        except BaseException:
            reader.close()
            raise
        return Opened(reader, pin, decoded=decoded)
    except FileNotFoundError as error:
        pin.release()
        raise CacheError(f"{pin.path}: is gone from the cache") from error
    except BaseException:
        pin.release()
        raise


def kept_digest(path: Path) -> str | None:
    """SHA-256 that a file of the cache had when it came, where one is kept beside it."""
    try:
        return digest_path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def digest_path(path: Path) -> Path:
    """Where the SHA-256 of a file of the cache is kept, if no manifest tells it."""
    return path.with_name(f"{path.name}.sha256")


def expected_digest(shard: Shard, path: Path, *, decoded: bool) -> str | None:
    """SHA-256 that the file of a shard, or of its decoded copy, must have in the cache."""
    return kept_digest(path) if decoded else shard.info.sha256 or kept_digest(path)


def index_path(shard: Shard, path: Path) -> Path:
    """Where the index of a shard is: of a tar that somebody else wrote, in the cache."""
    return shard.home.index or beside(path)


def beside(path: Path) -> Path:
    """Where the index of a tar is as a rule."""
    return path.with_name(f"{path.name}.idx")


def require_digest(reader: ShardReader, expected: str | None) -> None:
    """Read a shard whole and compare; None compares nothing.

    Raises:
        ShardError: if its SHA-256 is another.
    """
    if expected is not None and content_digest(reader) != expected:
        raise ShardError(
            f"{reader.name}: its content is not what the manifest says (SHA-256 differs): copy it "
            "anew, or find out what is damaged with: python -m packer verify"
        )


def content_digest(reader: ShardReader) -> str:
    """SHA-256 of all of a shard, in hexadecimal."""
    digest = sha256()
    for offset in range(0, reader.size, _CHUNK_BYTES):
        digest.update(reader.read_at(offset, _CHUNK_BYTES))
    return digest.hexdigest()


def missing(shard: Shard) -> FetchError:
    """The error for a shard that is not there."""
    named = "; its manifest names it: copy it there" if shard.home.url else ""
    return FetchError(f"{shard.url}: the shard is missing{named}")


def _scanned_if_need_be(open_reader: Callable[[], ShardReader], index: Path) -> ShardReader:
    """A reader of a cached file. An index that does not fit it goes, and it is scanned."""
    try:
        return open_reader()
    except ShardError as error:
        if not index.exists():
            raise
        remove_index(index)
        log.warning("%s; opened once more without an index", error)
        return open_reader()


def remove_index(index: Path) -> None:
    """Remove an index of the cache; where that can only be read, it fails and is told once more."""
    with suppress(OSError):
        index.unlink(missing_ok=True)


def _cached_reader(shard: Shard, path: Path, *, pause: Pause, indexed: bool) -> ShardReader:
    index = _index_of(shard, path, pause, mounted=False) if indexed else None
    file = PatientFile(path, pause=pause, mounted=False)
    return _reader(shard, file, index, verify_hash=False)


def _index_of(shard: Shard, path: Path, pause: Pause, *, mounted: bool) -> bytes | None:
    """Content of a shard's index, if it has one and that is of use."""
    if shard.info.nsamples < 0:
        return None
    index = index_path(shard, path)
    read = partial(read_index, index, samples=shard.info.nsamples)
    slow = mounted and shard.home.index is None
    try:
        return retry(partial(within, read, pause=pause) if slow else read, str(index), pause=pause)
    except FileNotFoundError:
        return None


def _reader(
    shard: Shard, file: PatientFile, index: bytes | None, *, verify_hash: bool
) -> ShardReader:
    """A reader of a shard whose size and number of samples are the manifest's."""
    info, known = shard.info, shard.info.nsamples >= 0
    try:
        if known:
            require_size(file.name, file.size, info.filesize)
    except ShardError:
        file.close()
        raise
    reader = ShardReader(file, samples=info.nsamples if known else None, index=index)
    try:
        require_digest(reader, info.sha256 if verify_hash else None)
    except BaseException:
        reader.close()
        raise
    return reader
