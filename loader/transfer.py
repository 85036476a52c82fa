"""Copies one file from any fsspec URL to the local disk: resumed, retried, checked."""

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from shards.errors import FetchError

CHUNK_BYTES = 4 << 20
ATTEMPTS = 6
FIRST_PAUSE_S = 0.5

# what HTTP and object-store clients raise that is no OSError; looked up only once they are loaded
_CLIENT_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("google.auth.exceptions", "TransportError"),
    ("requests.exceptions", "RequestException"),
)


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
        raise FetchError(f"{url}: {error}") from error
    except ValueError as error:
        raise FetchError(f"{url}: not a URL that can be opened: {error}") from error
    return fs, str(path)


def read_url(url: str, storage_options: dict[str, Any] | None) -> bytes:
    """A whole small file.

    Raises:
        FileNotFoundError: if there is none.
        FetchError: if it cannot be read after several attempts.
    """
    fs, path = open_url(url, storage_options)
    data: bytes = retry(lambda: fs.cat_file(path), url)
    return data


def transfer(
    url: str,
    target: Path,
    *,
    storage_options: dict[str, Any] | None = None,
    size: int | None = None,
    sha256: str | None = None,
    gate: Callable[[int], None] = lambda count: None,
) -> None:
    """Copy ``url`` to ``target``, which appears whole or not at all.

    A part left by an earlier, broken transfer is continued where the hash can tell a wrong one.
    Only one process may call this for a target at a time.

    Args:
        size, sha256: what the file must have; None where it is not known.
        gate: called with the bytes of each chunk; may wait, or raise StoppedError.

    Raises:
        FetchError: if it cannot be read after several attempts, or comes with other content.
    """
    part = part_path(target, size)
    fs, path = open_url(url, storage_options)
    if sha256 is None:
        part.unlink(missing_ok=True)
    for _ in range(2):  # content that does not match is fetched once more, afresh
        retry(lambda: _continue(fs, path, part, gate), url)
        found = part.stat().st_size
        if size is None or found == size:
            digest = _sha256(part) if sha256 is not None else None
            if digest == sha256:
                os.replace(part, target)
                return
        part.unlink()
    raise FetchError(
        f"{url}: its content is not what the manifest says ({found} bytes, {size} expected); "
        "find out with: python -m packer verify"
    )


def part_path(target: Path, size: int | None) -> Path:
    """Where a file is while it comes; the name tells its size to be, for the cache's limit."""
    return target.with_name(f"{target.name}.{size or 0}.part")


def retry(action: Callable[[], Any], url: str) -> Any:
    """Run an action on a URL, again and with growing pauses while it fails as networks do.

    Raises:
        FileNotFoundError: at once.
        FetchError: at once where access is denied, else after ``ATTEMPTS``.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise FetchError(f"{url}: access denied: {error}") from error
        except _network_errors() as error:
            if attempt == ATTEMPTS:
                raise FetchError(
                    f"{url}: failed {ATTEMPTS} times: {_remedy(url, error)}"
                ) from error
        time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _continue(fs: Any, path: str, part: Path, gate: Callable[[int], None]) -> None:
    """Append what the part lacks."""
    with part.open("ab") as target, fs.open(path, "rb", cache_type="none") as source:
        source.seek(target.tell())
        while chunk := source.read(CHUNK_BYTES):
            target.write(chunk)
            gate(len(chunk))
        target.flush()
        os.fsync(target.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _network_errors() -> tuple[type[Exception], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in _CLIENT_ERRORS)
    clients = (getattr(module, name) for module, name in loaded if module is not None)
    return OSError, EOFError, *clients


def _remedy(url: str, error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}"
    if "/content/drive" in url:
        return f"{reason}. Is Drive mounted? drive.mount('/content/drive', force_remount=True)"
    return reason
