"""What workers of a cluster do: encode recordings into a folder all of them see, and cut shards.

Blocks go from worker to worker through that folder, so any of them may die, and none is asked for.
"""

import errno
import hashlib
import json
import platform
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, wraps
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

import fsspec
import soundfile

from packer.encode import JOB_S, Encoded, Job, encode_recording
from packer.journal import BEGUN, ENCODED
from packer.memory import keep_freed
from packer.shard import Written, shard_name, write_shard
from packer.spool import noted_places, writing
from packer.target import Target
from shards import __version__
from shards import retry as retrying
from shards.errors import DataError, FetchError

_LIBRARIES = ("numpy", "soundfile", "soxr", "symusic", "distributed")
_JOBS = 64  # of a batch, at most
_GATHERED_BYTES = 64 << 20  # of blocks in memory, if there is more than one sample

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Site:
    """A dataset that is being made, as all machines see it.

    Attributes:
        url: of its folder, which is the same everywhere.
        begun: SHA-256 of its ``build.json``; who reads another one there has no part in it.
        versions: of all that shapes bytes.
    """

    url: str
    storage_options: Mapping[str, Any]
    begun: str
    versions: Mapping[str, str]

    def open(self) -> Target:
        """The folder.

        Raises:
            FetchError: if this machine sees another folder, or would write other bytes.
        """
        host, found = socket.gethostname(), versions()
        if found != self.versions:
            raise FetchError(
                f"the worker on {host} has {_differing(found, self.versions)}, but this build "
                f"{_differing(self.versions, found)}: install the same on all machines"
            )
        target = Target(self.url, dict(self.storage_options))
        try:
            begun = target.sha256(BEGUN)
        except FileNotFoundError:
            begun = ""
        if begun != self.begun:
            raise FetchError(
                f"{self.url}: the worker on {host} does not find this build there; --out has to "
                "be one folder for all machines: a URL, or a path on a shared mount"
            )
        return target


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs whose blocks become one file, as a small file of its own for each would cost time.

    Attributes:
        name: of the file; a hash of all that shapes it.
    """

    name: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A shard to be cut.

    Attributes:
        encoded: batch and place in its file, for each sample in order.
    """

    number: int
    encoded: tuple[tuple[str, Encoded], ...]


@lru_cache(1)
def versions() -> dict[str, str]:
    """Of the packer and all that shapes what it writes."""
    major, minor, _ = platform.python_version_tuple()
    return {
        "python": f"{major}.{minor}",
        "packer": __version__,
        "libsndfile": str(soundfile.__libsndfile_version__),
        **{name: version(name) for name in _LIBRARIES},
    }


def batches(jobs: Iterable[Job]) -> list[Batch]:
    """Jobs in batches of about ``JOB_S`` seconds, the same ones on any cluster."""
    found: list[list[Job]] = []
    room_s = 0.0
    for job in jobs:
        if room_s <= 0 or len(found[-1]) == _JOBS:
            found.append([])
            room_s = JOB_S
        found[-1].append(job)
        room_s -= sum(task.end_s - task.start_s for task in job.tasks)
    return [Batch(_batch_name(jobs), tuple(jobs)) for jobs in found]


def bounded(task: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a task fail in a way that reaches the client.

    Dask cannot send the traceback of a recursion that had no end: the client would wait for ever.
    """

    @wraps(task)
    def run(*args: Given.args, **options: Given.kwargs) -> Result:
        with suppress(RecursionError):
            return task(*args, **options)
        raise DataError(f"{task.__name__} on {socket.gethostname()}: recursion without an end")

    return run


@bounded
def encode_batch(site: Site, batch: Batch, *, begun_before: bool) -> list[Encoded]:
    """Encode a batch, unless that is done; where its samples lie in its file, in order.

    Args:
        begun_before: an earlier run left files of it.

    Raises:
        FetchError: if this machine does not see a source, or the target.
    """
    target = site.open()
    shared = target.child(ENCODED)
    if begun_before and (found := _encoded_before(shared, batch)) is not None:
        return found
    _require_sources(batch)
    keep_freed()
    with _scratch() as folder:
        blocks = folder / f"{batch.name}.blocks"
        places = _encode(batch, blocks)
        note = {"sha256": _sha256(blocks), "places": [asdict(place) for place in places]}
        site.open()  # which may be another build's by now, if nobody waits for this one
        shared.put(blocks, blocks.name)
        shared.write(f"{batch.name}.json", json.dumps(note).encode())
    return places


@bounded
def cut_shard(site: Site, cut: Cut) -> Written:
    """Cut a shard from what was encoded, and put it into the target with its index."""
    target = site.open()
    with _scratch() as folder:
        path = folder / shard_name(cut.number)
        encoded = _gather(site, cut, folder / "gathered")
        shard = write_shard(tuple(encoded), encoded, path)
        site.open()
        target.put(path, path.name)
        target.put(path.with_name(f"{path.name}.idx"), f"{path.name}.idx")
    return shard


class Exchange:
    """The folder of encoded batches beside the shards of a dataset."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._url = f"{url}/{ENCODED}"
        self._fs, self._path = fsspec.core.url_to_fs(self._url, **storage_options)

    def batches(self) -> set[str]:
        """Names of those that are there, whole or in part."""
        return {Path(path).stem for path in self._list()}

    def remove(self, names: Iterable[str]) -> None:
        """Remove batches that are there."""
        unwanted = set(names)
        if paths := [path for path in self._list() if Path(path).stem in unwanted]:
            self._retry(lambda: self._fs.rm(paths))

    def read(self, places: Sequence[tuple[str, Encoded]]) -> list[bytes]:
        """The blocks of some samples."""
        paths = [f"{self._path}/{name}.blocks" for name, _ in places]
        starts = [place.offset for _, place in places]
        ends = [place.offset + place.size for _, place in places]

        def read() -> list[bytes]:
            found = self._fs.cat_ranges(paths, starts, ends, on_error="raise")
            if any(len(data) != place.size for data, (_, place) in zip(found, places, strict=True)):
                raise OSError(errno.EIO, "fewer bytes came than were asked for")
            return [bytes(data) for data in found]

        return self._retry(read)

    def _list(self) -> list[str]:
        def ls() -> list[str]:
            self._fs.invalidate_cache(self._path)
            try:
                return [str(path) for path in self._fs.ls(self._path, detail=False)]
            except FileNotFoundError:
                return []

        return self._retry(ls)

    def _retry(self, action: Callable[[], Result]) -> Result:
        try:
            return retrying.retry(action)
        except retrying.network_errors() as error:
            raise FetchError(f"{self._url}: {type(error).__name__}: {error}") from error


def _batch_name(jobs: Sequence[Job]) -> str:
    told = "\0".join(job.spool.name for job in jobs)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _encoded_before(shared: Target, batch: Batch) -> list[Encoded] | None:
    try:
        note = json.loads(shared.read(f"{batch.name}.json"))
        if shared.sha256(f"{batch.name}.blocks") != note["sha256"]:
            return None
    except (FileNotFoundError, ValueError):
        return None
    return noted_places(note, [task for job in batch.jobs for task in job.tasks])


def _require_sources(batch: Batch) -> None:
    """Raise FetchError if a source is not here: its samples would pass for damaged ones."""
    tasks = [task for job in batch.jobs for task in job.tasks]
    paths = {path for task in tasks for path in (task.audio, task.midi) if path is not None}
    if missing := sorted(path for path in paths if not path.is_file()):
        raise FetchError(
            f"{missing[0]}: the worker on {socket.gethostname()} does not find it; sources have "
            "to lie under the same path on all machines"
        )


def _encode(batch: Batch, blocks: Path) -> list[Encoded]:
    """Encode recording after recording into one file."""
    with writing(blocks.parent), blocks.open("wb") as file:
        jobs = (replace(job, spool=blocks) for job in batch.jobs)
        return [place for job in jobs for place in encode_recording(job, file)]


def _gather(site: Site, cut: Cut, path: Path) -> dict[int, tuple[Path, Encoded]]:
    """Bring the samples of a shard into a local file; its path and their places, in order."""
    exchange = Exchange(site.url, site.storage_options)
    gathered: dict[int, tuple[Path, Encoded]] = {}
    with writing(path.parent), path.open("wb") as file:
        for places in _parts(cut.encoded):
            for (_, place), data in zip(places, exchange.read(places), strict=True):
                gathered[place.index] = path, replace(place, offset=file.tell())
                file.write(data)
    return gathered


def _parts(places: Iterable[tuple[str, Encoded]]) -> Iterator[list[tuple[str, Encoded]]]:
    """Consecutive places of no more bytes than are to be in memory."""
    part: list[tuple[str, Encoded]] = []
    for name, place in places:
        if part and sum(one.size for _, one in part) + place.size > _GATHERED_BYTES:
            yield part
            part = []
        part.append((name, place))
    if part:
        yield part


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder on a disk of this worker, which Dask clears away if the worker is killed."""
    from distributed import get_worker

    with TemporaryDirectory(dir=get_worker().local_directory) as folder:
        yield Path(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differing(some: Mapping[str, str], others: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {some[name]}" for name in some if some[name] != others.get(name))
