"""The folder that a dataset is written to: local or any fsspec URL. Files appear whole."""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from errno import EIO, ENOTCONN, EXDEV
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shards import retry as retrying
from shards.errors import FetchError
from shards.mounts import file_system, is_local

log = logging.getLogger("packer")

DRIVE = Path("/content/drive")
_CHUNK_BYTES = 4 << 20
_GO_ON = "the same command goes on where this one stops"

Result = TypeVar("Result")


class Target:
    """One folder, made when the first file is put into it.

    What fails as networks and mounts do is done again, with growing pauses.
    """

    def __init__(
        self,
        url: str,
        options: dict[str, Any] | None = None,
        *,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Open a folder.

        Args:
            options: passed to fsspec.
            pause: waits some seconds between attempts; may raise, to end them.

        Raises:
            FetchError: if the URL's protocol is unknown or needs a missing package.
        """
        self.url = url.rstrip("/")
        try:
            self._fs, path = fsspec.core.url_to_fs(url, **(options or {}))
        except (ImportError, ValueError) as error:
            raise FetchError(f"{url}: {error}") from error
        self._path = str(path).rstrip("/")
        self._local = Path(self._path) if type(self._fs) is LocalFileSystem else None
        self._pause = pause
        self._kind: str | None = None

    def child(self, name: str) -> "Target":
        """A folder within this one."""
        return self._at(f"{self.url}/{name}", f"{self._path}/{name}")

    @property
    def parent(self) -> "Target":
        """The folder that this one lies in."""
        path = self._path.rpartition("/")[0]
        url = self.url.rpartition("/")[0] if self._local is None else path
        return self._at(url, path)

    @property
    def name(self) -> str:
        """What the folder is called in its parent."""
        return self._path.rpartition("/")[2]

    @property
    def identity(self) -> str:
        """The same for all URLs of this folder, as far as can be told."""
        if self._local is not None:
            return os.path.realpath(self._local)
        return str(self._fs.unstrip_protocol(self._path))

    @property
    def on_disk(self) -> bool:
        """Whether it lies on a disk of this machine, where what was written stays as it is."""
        return self._local is not None and is_local(self._local)

    @property
    def on_drive(self) -> bool:
        """Whether it is a mounted Google Drive, which uploads some time after it was written."""
        if self._local is None or self.on_disk:
            return False
        real = Path(os.path.realpath(self._local))
        return real.is_relative_to(DRIVE) or "drive" in file_system(self._local)

    def shares_disk(self, folder: Path) -> bool:
        """Whether what is written here takes room on the disk of a local folder."""
        if self._local is None:
            return False
        there = next(path for path in (self._local, *self._local.parents) if path.exists())
        return there.stat().st_dev == folder.stat().st_dev

    def require_no_file(self) -> None:
        """Raise FetchError if a file lies where the folder has to be."""
        if self._local is not None and self._local.is_file():
            raise FetchError(f"{self.url}: is a file; a dataset is a folder: name another one")

    def names(self) -> list[str]:
        """What the folder holds, sorted; nothing if there is no folder."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """What the folder holds, with the bytes of files; nothing if there is no folder."""
        try:
            entries = self._try("", self._list)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            str(entry["name"]).rstrip("/").rpartition("/")[2]: int(entry["size"] or 0)
            for entry in entries
        }

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: if there is none.
        """
        return bytes(self._try(name, lambda: self._fs.cat_file(f"{self._path}/{name}")))

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, read back, in hexadecimal.

        Raises:
            FileNotFoundError: if there is none.
        """
        return self._try(name, lambda: self._sha256(name))

    def fetch(self, name: str, folder: Path) -> Path:
        """A local path of a file: itself, or a copy made in ``folder``."""
        if self._local is not None:
            return self._local / name
        copy = folder / name
        self._try(name, lambda: self._fs.get_file(f"{self._path}/{name}", str(copy)))
        return copy

    def write(self, name: str, data: bytes) -> None:
        """Make a small file."""
        self._try(name, lambda: self._write(name, data))

    def put(self, source: Path, name: str) -> None:
        """Move a local file here.

        Raises:
            FetchError: if it cannot be written, for good or for longer than it is tried.
        """
        self._try(name, lambda: self._put(source, name))
        source.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._try(name, lambda: self._fs.rm_file(f"{self._path}/{name}"))

    def remove_if_empty(self) -> None:
        """Remove a local folder in which nothing is left; elsewhere it is gone with its files."""
        if self._local is not None and self._local.is_dir() and not self.names():
            self._local.rmdir()

    def remove_partials(self) -> None:
        """Remove what a build that was killed had not written to its end."""
        if self._local is not None:
            for path in self._local.glob(".*.partial"):
                path.unlink(missing_ok=True)

    def _at(self, url: str, path: str) -> "Target":
        """Another folder of the same file system."""
        other = Target.__new__(Target)
        other.url, other._fs, other._path = url, self._fs, path
        other._local = None if self._local is None else Path(path)
        other._pause, other._kind = self._pause, None
        return other

    def _try(self, name: str, action: Callable[[], Result]) -> Result:
        url = f"{self.url}/{name}".rstrip("/")
        waited = False

        def pause(seconds: float) -> None:
            nonlocal waited
            if not waited:
                waited = True
                log.warning(
                    "%s: cannot be reached; tried again for %.0f s", url, retrying.PATIENCE_S
                )
            self._pause(seconds)

        try:
            return retrying.retry(action, pause=pause)
        except retrying.network_errors() as error:
            if (told := _told(url, error)) is None:
                raise
            raise FetchError(told) from error

    def _list(self) -> list[dict[str, Any]]:
        self._fs.invalidate_cache(self._path)
        entries: list[dict[str, Any]] = self._fs.ls(self._path, detail=True)
        return entries

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._fs.open(f"{self._path}/{name}", "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _write(self, name: str, data: bytes) -> None:
        if self._local is None:
            self._fs.pipe_file(f"{self._path}/{name}", data)
            return
        self._appear(name, lambda partial: partial.write_bytes(data))

    def _put(self, source: Path, name: str) -> None:
        if self._local is None:
            self._upload(source, name)
            return
        try:
            os.replace(source, self._folder() / name)
        except OSError as error:
            if error.errno != EXDEV:
                raise
            self._appear(name, lambda partial: shutil.copyfile(source, partial))

    def _upload(self, source: Path, name: str) -> None:
        path = f"{self._path}/{name}"
        self._fs.put_file(str(source), path)
        self._fs.invalidate_cache(self._path)
        size, expected = int(self._fs.info(path)["size"]), source.stat().st_size
        if size != expected:
            raise OSError(EIO, f"{size} of {expected} bytes arrived")

    def _appear(self, name: str, fill: Callable[[Path], object]) -> None:
        """Write a file under another name first; nothing of it stays if that fails."""
        folder = self._folder()
        partial = folder / f".{name}.partial"
        try:
            fill(partial)
            os.replace(partial, folder / name)
        except OSError:
            _unlink(partial)
            raise

    def _folder(self) -> Path:
        """The local folder, made for the first file.

        Where a mount has gone, the disk below it must not be written to instead.
        """
        assert self._local is not None
        if self._kind is None:
            if self.on_disk and Path(os.path.realpath(self._local)).is_relative_to(DRIVE):
                raise FetchError(
                    f"{self.url}: Drive is not mounted; run drive.mount({str(DRIVE)!r}) first"
                )
            self._local.mkdir(parents=True, exist_ok=True)
            self._kind = file_system(self._local)
        if not self._local.is_dir() or file_system(self._local) != self._kind:
            raise OSError(ENOTCONN, "the folder is gone; was its file system unmounted?")
        return self._local


def _unlink(path: Path) -> None:
    """Remove a file if its file system lets us; what stays is removed when a build begins."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _told(url: str, error: Exception) -> str | None:
    """What to say of an error that ends the attempts; None if it says enough itself."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in retrying.FULL:
        return f"{url}: no room, or its quota is used up ({reason}); make room: {_GO_ON}"
    if isinstance(error, PermissionError) or retrying.status(error) in (401, 403):
        return f"{url}: access denied: {error}"
    if retrying.may_pass(error):
        waited = f"{retrying.PATIENCE_S:.0f} s"
        return f"{url}: cannot be reached, tried for {waited} ({reason}); once it is: {_GO_ON}"
    return None if isinstance(error, OSError) else f"{url}: {reason}"
