"""Copies one file from any fsspec URL to the local disk: resumed, retried, checked."""

import hashlib
import importlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from loader.disk import writing
from loader.patience import PATIENCE, Pause, WatchedFile, retry, within
from loader.version import exact_version
from shards.errors import CacheError, FetchError
from shards.protocols import missing_package

CHUNK_BYTES = 4 << 20
_FIRST_BYTES = 512 << 10  # asked for at first, when nobody knows how slow the link is
_LEAST_BYTES = 64 << 10
_LARGEST_BYTES = 2 << 30  # of a manifest, an index or ratings: 20 million shards
_LARGEST_REMOTE_BYTES = 256 << 20  # of the same: a server may send anything
_CHUNK_OF_SMALL_BYTES = 1 << 20
_SMALL_FILE_BYTES = 40 << 20  # what is waited for as long as for so much


def open_url(url: str, storage_options: dict[str, Any] | None) -> tuple[Any, str]:
    """File system and path of a URL.

    Raises:
        FetchError: if its protocol is unknown or needs a package that is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url, **_for_the_web(url, storage_options or {}))
    except ImportError as error:
        raise missing_package(url, error) from error
    except ValueError as error:
        raise FetchError(f"{url}: not a URL that can be opened: {error}") from error
    return fs, str(path)


def _for_the_web(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of fsspec, with limits for web servers that fall silent, or send bombs.

    Without, aiohttp gives any request five minutes, however fast its bytes come, and unpacks what
    is sent compressed, whatever that becomes. What the user asks for comes first.
    """
    if not url.startswith(("http://", "https://")):
        return options
    limits = importlib.import_module("aiohttp").ClientTimeout(
        total=None, sock_connect=PATIENCE.stall_s, sock_read=PATIENCE.stall_s
    )
    as_it_is = {"headers": {"Accept-Encoding": "identity"}, "auto_decompress": False}
    own = options.get("client_kwargs", {})
    return {**options, "client_kwargs": {"timeout": limits, **as_it_is, **own}}


def read_url(
    url: str,
    storage_options: dict[str, Any] | None,
    *,
    attempts: int | None = None,
    pause: Pause = time.sleep,
    limit_bytes: int = _LARGEST_REMOTE_BYTES,
) -> bytes:
    """A whole small file; other arguments and errors are those of ``retry``.

    Args:
        limit_bytes: no more of a remote file is taken.

    Raises:
        FetchError: also if it is no plain file, or larger than any manifest.
    """
    fs, path = open_url(url, storage_options)
    if type(fs) is LocalFileSystem:
        _require_plain(path)
        limit_bytes = _LARGEST_BYTES
    read_some = _read_stream if _is_http(fs) else _read_range
    read = partial(
        within, partial(read_some, fs, path, limit_bytes), size=_SMALL_FILE_BYTES, pause=pause
    )
    data = retry(read, url, attempts=attempts, pause=pause)
    if len(data) > limit_bytes:
        raise FetchError(
            f"{url}: is larger than the {limit_bytes >> 20} MiB that are taken of such a file; if "
            "that is meant, copy the dataset to this machine"
        )
    return data


def _read_range(fs: Any, path: str, limit_bytes: int) -> bytes:
    """A file, but no more than one byte beyond the limit."""
    return bytes(fs.cat_file(path, start=0, end=limit_bytes + 1))


def _read_stream(fs: Any, path: str, limit_bytes: int) -> bytes:
    """The same of a web server, which may know no ranges."""
    data = bytearray()
    with fs.open(path, "rb", block_size=0, size=1) as stream:  # a size spares asking for it
        while len(data) <= limit_bytes and (chunk := stream.read(_CHUNK_OF_SMALL_BYTES)):
            data += chunk
    return bytes(data)


def _require_plain(path: str) -> None:
    """Refuse a pipe, a device or a file without end that lies where a small file should."""
    try:
        status = os.stat(path)
    except OSError:  # reading it tells, and may be tried again
        return
    if stat.S_ISDIR(status.st_mode) or (
        stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_BYTES
    ):
        return
    raise FetchError(f"{path}: is no plain file of at most {_LARGEST_BYTES >> 30} GiB: refused")


def transfer(
    url: str,
    target: Path,
    *,
    storage_options: dict[str, Any] | None = None,
    size: int | None = None,
    sha256: str | None = None,
    gate: Callable[[int], None] = lambda count: None,
    pause: Pause = time.sleep,
) -> str:
    """Copy ``url`` to ``target``, which appears whole or not at all.

    A part left by an earlier, broken transfer is continued where the hash can tell a wrong one.
    Only one process may call this for a target at a time.

    Args:
        size, sha256: what the file must have; None where it is not known.
        gate: called with the bytes of each chunk; may wait, or raise StoppedError.
        pause: waits some seconds between attempts; may raise StoppedError.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        FileNotFoundError: if there is no such file.
        FetchError: if it cannot be read after several attempts or comes with other content.
        CacheError: if the target cannot be written; nothing of it stays.
    """
    part = part_path(target, size)
    if sha256 is None:
        _remove(part)
    hashed = sha256 is not None
    source = _Source(url, storage_options, size=size, hashed=hashed, gate=gate, pause=pause)
    for _ in range(2):  # content that does not match is fetched once more, afresh
        version = source.version() if sha256 is None else ""
        digest = source.append_to(part)
        with writing(part.parent):
            found = part.stat().st_size
        same = sha256 is not None or source.version() == version
        if size in (None, found) and sha256 in (None, digest) and same:
            with writing(part.parent):
                os.replace(part, target)
            return digest
        _remove(part)
    if not same:
        raise FetchError(f"{url}: is being written: it changed while it was read, twice")
    if sha256 is None:
        raise FetchError(f"{url}: {found} bytes came where {size} were announced")
    raise FetchError(
        f"{url}: its content is not what the manifest says ({found} bytes, {size} expected, "
        f"SHA-256 {'unlike' if size in (None, found) else 'not compared'}); "
        "find out with: python -m packer verify"
    )


def part_path(target: Path, size: int | None) -> Path:
    """Where a file is while it comes; the name tells its size to be, for the cache's limit."""
    return target.with_name(f"{target.name}.{size or 0}.part")


def next_bytes(got: int, seconds: float) -> int:
    """How much to ask for next: what comes in half the time after which a fetch counts as stalled.

    Args:
        got: bytes that came last, in so many ``seconds``; at most twice as many are next.
    """
    in_time = int(got * PATIENCE.aside_s / 2 / max(seconds, 1e-6))
    return min(max(min(2 * got, in_time), _LEAST_BYTES), CHUNK_BYTES)


class _Source:
    """A file to copy. The slower it comes, and the more fails, the less it asks for at once."""

    def __init__(
        self,
        url: str,
        storage_options: dict[str, Any] | None,
        *,
        size: int | None,
        hashed: bool,
        gate: Callable[[int], None],
        pause: Pause,
    ) -> None:
        self._url, self._gate, self._pause = url, gate, pause
        self._fs, self._path = open_url(url, storage_options)
        self._size = size
        # spares asking for it first; a longer file would end there, which a hash alone tells
        self._known = {"size": size} if size and hashed and _is_http(self._fs) else {}
        self._chunk_bytes = min(_FIRST_BYTES, CHUNK_BYTES)

    def version(self) -> str:
        """Which version of it lies there now; empty if nothing tells.

        Raises:
            FileNotFoundError, FetchError: as ``retry``.
        """
        self._fs.invalidate_cache()
        return exact_version(self._retried(self._about))

    def append_to(self, part: Path) -> str:
        """Append what the part lacks, in as many attempts as it takes.

        Returns:
            The SHA-256 of the whole, in hexadecimal.

        Raises:
            FileNotFoundError, FetchError: as ``retry``.
        """

        def there() -> int:
            with writing(part.parent):
                try:
                    return part.stat().st_size
                except FileNotFoundError:  # and not the file at the URL
                    return 0

        try:
            return str(self._retried(partial(self._continue, part), progress=there))
        except CacheError:
            with suppress(CacheError):
                _remove(part)  # room for others
            raise

    def _retried(
        self, action: Callable[[], Any], *, progress: Callable[[], int] = lambda: 0
    ) -> Any:
        return retry(action, self._url, pause=self._pause, progress=progress)

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = within(lambda: self._fs.info(self._path), pause=self._pause)
        return about

    def _continue(self, part: Path) -> str:
        """Append what the part lacks; where a web server only sends whole files, begin again."""
        try:
            return self._append(part, cache_type="none")
        except ValueError:  # fsspec's word for a server without ranges
            if not _is_http(self._fs):
                raise
            with writing(part.parent):
                part.write_bytes(b"")
            return self._append(part, block_size=0)  # as one stream

    def _append(self, part: Path, **options: Any) -> str:
        """Copy what comes after the part's end; the SHA-256 of both together.

        What passes is hashed at once. Only what an earlier attempt left is read again for it.
        """
        opener = partial(self._fs.open, self._path, "rb", **options, **self._known)
        with WatchedFile(opener, pause=self._pause) as source, _appending(part) as target:
            with writing(part.parent):
                digest = _sha256(part) if target.tell() else hashlib.sha256()
            source.seek(target.tell())
            while chunk := self._read(source):
                with writing(part.parent):
                    target.write(chunk)
                digest.update(chunk)
                self._gate(len(chunk))
                if self._size is not None and target.tell() > self._size:
                    break  # it is another file, or one without end
        return digest.hexdigest()

    def _read(self, source: WatchedFile) -> bytes:
        began = time.monotonic()
        try:
            data = source.read(self._chunk_bytes)
        except OSError:
            self._chunk_bytes = max(self._chunk_bytes // 4, min(_LEAST_BYTES, CHUNK_BYTES))
            raise
        self._chunk_bytes = next_bytes(len(data), time.monotonic() - began)
        return data


@contextmanager
def _appending(part: Path) -> Iterator[BinaryIO]:
    """A part opened at its end; on the disk, and not only in memory, once it is closed."""
    with writing(part.parent):
        target = part.open("ab")
    try:
        yield target
        with writing(part.parent):
            target.flush()
            os.fsync(target.fileno())
    finally:
        with writing(part.parent):
            target.close()


def _remove(part: Path) -> None:
    with writing(part.parent):
        part.unlink(missing_ok=True)


def _sha256(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _is_http(fs: Any) -> bool:
    return "http" in fs.protocol
