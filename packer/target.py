"""The folder that a dataset is written to: local or any fsspec URL. Files appear whole."""

import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shards.errors import FetchError


class Target:
    """One folder, made when the first file is put into it."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        """Open a folder.

        Raises:
            FetchError: if the URL's protocol is unknown or needs a missing package.
        """
        self.url = url.rstrip("/")
        try:
            self._fs, path = fsspec.core.url_to_fs(url, **(options or {}))
        except (ImportError, ValueError) as error:
            raise FetchError(f"{url}: {error}") from error
        self._path = str(path).rstrip("/")
        self._local = Path(self._path) if isinstance(self._fs, LocalFileSystem) else None

    def child(self, name: str) -> "Target":
        """A folder within this one."""
        child = Target.__new__(Target)
        child.url, child._fs = f"{self.url}/{name}", self._fs
        child._path = f"{self._path}/{name}"
        child._local = None if self._local is None else self._local / name
        return child

    def names(self) -> list[str]:
        """What the folder holds, sorted; nothing if there is no folder."""
        try:
            self._fs.invalidate_cache(self._path)
            paths = self._fs.ls(self._path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in paths)

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: if there is none.
        """
        self._fs.invalidate_cache(self._path)
        return int(self._fs.info(f"{self._path}/{name}")["size"])

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: if there is none.
        """
        return bytes(self._fs.cat_file(f"{self._path}/{name}"))

    def fetch(self, name: str, folder: Path) -> Path:
        """A local path of a file: itself, or a copy made in ``folder``."""
        if self._local is not None:
            return self._local / name
        self._fs.get_file(f"{self._path}/{name}", str(folder / name))
        return folder / name

    def write(self, name: str, data: bytes) -> None:
        """Make a small file."""
        if self._local is None:
            self._fs.pipe_file(f"{self._path}/{name}", data)
            return
        self._local.mkdir(parents=True, exist_ok=True)
        partial = self._local / f".{name}.partial"
        partial.write_bytes(data)
        os.replace(partial, self._local / name)

    def put(self, source: Path, name: str) -> None:
        """Move a local file here."""
        if self._local is None:
            self._fs.put_file(str(source), f"{self._path}/{name}")
            source.unlink()
            return
        self._local.mkdir(parents=True, exist_ok=True)
        partial = self._local / f".{name}.partial"
        shutil.move(source, partial)
        os.replace(partial, self._local / name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if name in self.names():
            self._fs.rm_file(f"{self._path}/{name}")
