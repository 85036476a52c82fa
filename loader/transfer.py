"""Copies one file from any fsspec URL to the local disk: resumed, retried, checked."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOENT
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from loader.disk import writing
from shards.errors import FetchError
from shards.protocols import missing_package
from shards.retry import may_pass, network_errors, status

CHUNK_BYTES = 4 << 20
ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
_GONE = (404, 410)


class StoppedError(Exception):
    """The transfer was told to stop; what came so far is kept for the next one."""


def open_url(url: str, storage_options: dict[str, Any] | None) -> tuple[Any, str]:
    """File system and path of a URL.

    Raises:
        FetchError: if its protocol is unknown or needs a package that is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url, **(storage_options or {}))
    except ImportError as error:
        raise missing_package(url, error) from error
    except ValueError as error:
        raise FetchError(f"{url}: not a URL that can be opened: {error}") from error
    return fs, str(path)


def read_url(
    url: str,
    storage_options: dict[str, Any] | None,
    *,
    attempts: int = ATTEMPTS,
    pause: Callable[[float], object] = time.sleep,
) -> bytes:
    """A whole small file; arguments and errors are those of ``retry``."""
    fs, path = open_url(url, storage_options)
    data: bytes = retry(lambda: fs.cat_file(path), url, attempts=attempts, pause=pause)
    return data


def transfer(
    url: str,
    target: Path,
    *,
    storage_options: dict[str, Any] | None = None,
    size: int | None = None,
    sha256: str | None = None,
    gate: Callable[[int], None] = lambda count: None,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Copy ``url`` to ``target``, which appears whole or not at all.

    A part left by an earlier, broken transfer is continued where the hash can tell a wrong one.
    Only one process may call this for a target at a time.

    Args:
        size, sha256: what the file must have; None where it is not known.
        gate: called with the bytes of each chunk; may wait, or raise StoppedError.
        pause: waits some seconds between attempts; may raise StoppedError.

    Raises:
        FileNotFoundError: if there is no such file.
        FetchError: if it cannot be read after several attempts or comes with other content, or
            if the target cannot be written.
    """
    part = part_path(target, size)
    fs, path = open_url(url, storage_options)
    if sha256 is None:
        part.unlink(missing_ok=True)
    for _ in range(2):  # content that does not match is fetched once more, afresh
        digest = retry(lambda: _continue(fs, path, part, size=size, gate=gate), url, pause=pause)
        found = part.stat().st_size
        if size in (None, found) and sha256 in (None, digest):
            os.replace(part, target)
            return
        part.unlink()
    raise FetchError(
        f"{url}: its content is not what the manifest says ({found} bytes, {size} expected, "
        f"SHA-256 {'unlike' if size in (None, found) else 'not compared'}); "
        "find out with: python -m packer verify"
    )


def part_path(target: Path, size: int | None) -> Path:
    """Where a file is while it comes; the name tells its size to be, for the cache's limit."""
    return target.with_name(f"{target.name}.{size or 0}.part")


def retry(
    action: Callable[[], Any],
    url: str,
    *,
    attempts: int = ATTEMPTS,
    pause: Callable[[float], object] = time.sleep,
) -> Any:
    """Run an action on a URL, again and with growing pauses while it fails as networks do.

    Args:
        pause: waits some seconds; may raise StoppedError.

    Raises:
        FileNotFoundError: at once.
        FetchError: at once where it will not pass, such as access that is denied or a path that
            leads through a file, else after ``attempts``.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except (IsADirectoryError, NotADirectoryError) as error:
            wrong = "a folder" if isinstance(error, IsADirectoryError) else "below a file"
            raise FetchError(
                f"{url}: is {wrong}; name a dataset's folder, its manifest.json or tars"
            ) from error
        except network_errors() as error:
            if _is_missing(error):
                raise FileNotFoundError(ENOENT, os.strerror(ENOENT), url) from error
            if isinstance(error, PermissionError) or status(error) in (401, 403):
                raise FetchError(f"{url}: access denied: {error}") from error
            # fsspec says of a server that fails, too, that a file is not there
            passing = may_pass(error) or isinstance(error, FileNotFoundError)
            if not passing or attempt == attempts:
                times = f" {attempt} times" if attempt > 1 else ""
                raise FetchError(f"{url}: failed{times}: {_remedy(url, error)}") from error
        pause(FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _continue(
    fs: Any, path: str, part: Path, *, size: int | None, gate: Callable[[int], None]
) -> str:
    """Append what the part lacks; where a web server only sends whole files, begin again.

    Returns:
        The SHA-256 of the whole, in hexadecimal.
    """
    known = {"size": size} if size and _is_http(fs) else {}  # spares asking for it first
    try:
        with fs.open(path, "rb", cache_type="none", **known) as source:
            return _append(source, part, gate)
    except ValueError:  # fsspec's word for a server without ranges
        if not _is_http(fs):
            raise
        with writing(part.parent):
            part.write_bytes(b"")
        with fs.open(path, "rb", block_size=0, **known) as source:  # as one stream
            return _append(source, part, gate)


def _append(source: Any, part: Path, gate: Callable[[int], None]) -> str:
    """Copy what comes after the part's end; the SHA-256 of both together.

    What passes is hashed at once. Only what an earlier attempt left is read again for it.
    """
    with _appending(part) as target:
        digest = _sha256(part) if target.tell() else hashlib.sha256()
        source.seek(target.tell())
        while chunk := source.read(CHUNK_BYTES):
            with writing(part.parent):
                target.write(chunk)
            digest.update(chunk)
            gate(len(chunk))
    return digest.hexdigest()


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


def _sha256(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _is_http(fs: Any) -> bool:
    return "http" in fs.protocol


def _is_missing(error: Exception) -> bool:
    """Whether a file is not there; fsspec says so of web servers that fail, too."""
    if status(error) in _GONE:
        return True
    cause = error.__cause__
    failed = isinstance(cause, network_errors()) and (
        may_pass(cause) or status(cause) not in (None, *_GONE)
    )
    return isinstance(error, FileNotFoundError) and not failed


def _remedy(url: str, error: BaseException) -> str:
    cause = error.__cause__ or error
    reason = f"{type(cause).__name__}: {cause}"
    if "Credentials" in type(cause).__name__:
        return f"{reason}. Pass storage_options: key and secret, or anon=True for public data"
    if "/content/drive" in url:
        return f"{reason}. Is Drive mounted? drive.mount('/content/drive', force_remount=True)"
    return f"{reason}. Check the network and the server, then run again: what came is kept"
