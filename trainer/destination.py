"""Where a run is to lie in the end, if that is a mount or a URL: files appear there whole."""

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.implementations.local import LocalFileSystem

from loader.places import DRIVE
from loader.transfer import open_url
from shards.mounts import file_system, is_local


def is_far(out: str) -> bool:
    """Whether a folder is a URL or lies on a mount, so that writing to it may be slow, or fail."""
    fs, path = open_url(out, None)
    return type(fs) is not LocalFileSystem or not is_local(Path(path))


class Destination:
    """A folder on a mount or behind a URL. Every method raises what networks and mounts do.

    Where the mount went away, its folder is one of the local disk: nothing is written there.
    """

    def __init__(self, out: str) -> None:
        self.out = out.rstrip("/")
        self._fs, path = open_url(out, None)
        self._path = path.rstrip("/")
        self._is_path = type(self._fs) is LocalFileSystem
        self._on_mount = self._is_path and not is_local(Path(self._path))

    @property
    def on_drive(self) -> bool:
        """Whether it is a mounted Google Drive, which uploads some time after it was written."""
        if not self._is_path:
            return False
        real = Path(os.path.realpath(self._path))
        return real.is_relative_to(DRIVE) or "drive" in file_system(real)

    def sizes(self) -> dict[str, int]:
        """Files below it, by their paths within it; drafts are left out."""
        self._require_mount()
        found: dict[str, Any] = {}
        if self._fs.exists(self._path):
            self._fs.invalidate_cache()
            found = self._fs.find(self._path, detail=True)
        names = {name[len(self._path) + 1 :]: int(info["size"]) for name, info in found.items()}
        return {name: size for name, size in names.items() if not _is_draft(name)}

    def read(self, name: str) -> bytes | None:
        """A small file; None if there is none."""
        self._require_mount()
        try:
            data: bytes = self._fs.cat_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return None
        return data

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file here, by rename."""
        self._require_mount()
        draft = target.with_name(f".{target.name}.draft")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(f"{self._path}/{name}", str(draft))
        os.replace(draft, target)

    def put(self, file: BinaryIO, size: int, name: str) -> None:
        """Write the first bytes of an open file there; it appears when it is complete.

        Args:
            size: how many; more may have been added meanwhile.
        """
        path = Path(f"{self._path}/{name}")
        if not self._is_path:  # an object appears whole in any case
            self._put_object(file, size, str(path))
            return
        self._require_mount()
        draft = path.with_name(f".{path.name}.draft")
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as there:
            _copy(file, there, size)
            there.flush()
            os.fsync(there.fileno())
        os.replace(draft, path)
        self._require_mount()  # or it went away meanwhile, and was not written to

    def rename(self, name: str, new: str) -> None:
        """Give a file another name, in the place of what was called that."""
        self._require_mount()
        if self._is_path:
            os.replace(f"{self._path}/{name}", f"{self._path}/{new}")
        else:
            self._fs.mv(f"{self._path}/{name}", f"{self._path}/{new}")

    def names(self) -> list[str]:
        """What lies in it, not below; empty if it is not there."""
        self._require_mount()
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        names = [str(one).rstrip("/").removeprefix(self._path).strip("/") for one in found]
        return [name for name in names if name]  # a store may list the folder itself

    def remove(self, names: Iterable[str]) -> None:
        """Take files away, and nothing else."""
        self._require_mount()
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._path}/{name}")

    def _require_mount(self) -> None:
        if self._on_mount and is_local(Path(self._path)):
            raise OSError(errno.ENODEV, "it is not mounted any more", self._path)

    def _put_object(self, file: BinaryIO, size: int, path: str) -> None:
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self._fs.open(path, "wb") as there:
            _copy(file, there, size)


def _copy(file: BinaryIO, there: Any, size: int) -> None:
    file.seek(0)
    shutil.copyfileobj(_First(file, size), there, 4 << 20)


class _First:
    """The first bytes of a file that may grow."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


def _is_draft(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")
