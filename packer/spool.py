"""The local folder of a build: what is encoded and not yet in the target, kept for a restart."""

import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from packer.encode import Encoded, Job, Task, encode_recording
from packer.interrupt import held_back
from shards import __version__
from shards.errors import FetchError
from shards.retry import FULL
from shards.units import in_words

_BLOCKS, _PLACES, _PARTIAL = ".blocks", ".json", ".partial"
_CHUNK_BYTES = 4 << 20
_MAKE_ROOM = "make room, or pass --spool with a folder on another disk of this machine"


def default_spool() -> Path:
    """Where spools go when no folder is given: the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "packer-spool"


class Spool:
    """The folder of one dataset; only one build at a time may use it.

    A recording's file is named by all that shapes its blocks, so that it is found again by any
    build that would encode the same. It counts once its places are noted beside it.
    """

    def __init__(self, root: Path, url: str) -> None:
        self._folder = root / _name(url)
        self._versions = [__version__, *(version(n) for n in ("soundfile", "soxr", "symusic"))]

    @property
    def folder(self) -> Path:
        return self._folder

    def begin(self) -> bool:
        """Make the folder, or clear away what an earlier build had not finished.

        Returns:
            Whether it holds recordings.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            if path.suffix not in (_BLOCKS, _PLACES):
                path.unlink()
        return any(path.suffix == _PLACES for path in self._folder.iterdir())

    def recording(self, job: Job, content: Sequence[object]) -> Path:
        """Where the blocks of a job go.

        Args:
            content: what tells the job's sources from others of the same names.
        """
        settings = _values(job, without={"spool", "tasks"})
        tasks = [_values(task, without={"index", "audio", "midi"}) for task in job.tasks]
        identity = json.dumps([self._versions, settings, tasks, content])
        return self._folder / f"{sha256(identity.encode()).hexdigest()[:32]}{_BLOCKS}"

    def keep(self, recordings: Collection[Path]) -> None:
        """Remove all but some recordings: those of other annotations, or of finished groups."""
        names = {path.stem for path in recordings}
        for path in self._folder.iterdir():
            if path.stem not in names:
                path.unlink()

    def has_room(self, needed_bytes: int) -> bool:
        """Whether so much can be written."""
        return shutil.disk_usage(self._folder).free >= needed_bytes

    def require_room(self, needed_bytes: int) -> None:
        """Raise FetchError if the disk has less room than is about to be written."""
        if not self.has_room(needed_bytes):
            free = in_words(shutil.disk_usage(self._folder).free)
            raise FetchError(
                f"{self._folder}: {in_words(needed_bytes)} are needed to encode the next "
                f"recordings, {free} are free; {_MAKE_ROOM}"
            )

    def end(self) -> None:
        """Remove the folder: its build is complete."""
        shutil.rmtree(self._folder, ignore_errors=True)


def encode_into(job: Job) -> list[Encoded]:
    """Encode a recording; its blocks appear whole in ``job.spool``, and then their places."""
    partial = job.spool.with_suffix(f".{os.getpid()}{_PARTIAL}")
    with held_back(), writing(job.spool.parent):
        return _encode_into(job, partial)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell what to do where the disk of a spool is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise FetchError(f"{folder}: its disk is full; {_MAKE_ROOM}") from error
        raise


def encoded_before(job: Job) -> list[Encoded] | None:
    """What an earlier build made of a job, if it made all of it and that is as it was left."""
    try:
        note = json.loads(job.spool.with_suffix(_PLACES).read_bytes())
        if _crc32(job.spool) != note["crc32"]:
            return None
    except (FileNotFoundError, ValueError):  # killed in between, or a disk that lost what it held
        return None
    return noted_places(note, job.tasks)


def noted_places(note: Mapping[str, Any], tasks: Sequence[Task]) -> list[Encoded] | None:
    """Where samples lie by the note of an earlier build, if it could encode all of them."""
    places = [
        Encoded(**place | {"index": task.index})
        for task, place in zip(tasks, note["places"], strict=True)
    ]
    return None if any(place.reason for place in places) else places


def forget(spool: Path) -> None:
    """Remove a recording whose samples are in the target."""
    spool.with_suffix(_PLACES).unlink(missing_ok=True)
    spool.unlink(missing_ok=True)


def _encode_into(job: Job, partial: Path) -> list[Encoded]:
    with partial.open("wb") as file:
        summed = _Summed(file)
        places = encode_recording(job, summed)
    note = {"crc32": summed.crc32, "places": [asdict(place) for place in places]}
    os.replace(partial, job.spool)
    partial.write_text(json.dumps(note), encoding="utf-8")
    os.replace(partial, job.spool.with_suffix(_PLACES))
    return places


class _Summed:
    """Appends to a file and takes the sum of what passes, so that it is not read again for it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc32 = 0

    def write(self, data: bytes) -> None:
        self.crc32 = zlib.crc32(data, self.crc32)
        self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()


def _name(url: str) -> str:
    return sha256(url.encode()).hexdigest()[:16]


def _crc32(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
    return found


def _values(settings: Job | Task, *, without: Collection[str]) -> dict[str, Any]:
    return {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name not in without
    }
