"""The ways from a slow mount into training: each opens an experiment, and gives its epochs."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.peers.setting import BATCH, FLAC, SOUNDFILE, USERS, Batch, Setting

WORKERS = 2  # where a way may have them; on the mount itself users have to take 0

Epochs = Iterator[Iterator[Batch]]


@dataclass(frozen=True, slots=True)
class Job:
    """What a way is given.

    Attributes:
        source: the folder of its format, on the mount; a URL where FUSE is missing.
        cache: a local folder, which stays between experiments.
        samples: of the dataset.
        part: how many of them are read where that is scaled up to all.
    """

    source: str
    cache: Path
    samples: int
    part: int

    def setting(self, decoders: str, workers: int = WORKERS) -> Setting:
        folder = Path(self.source)
        return Setting(folder, folder, FLAC, decoders, workers)

    def files(self) -> Any:
        """The mounted files as a torch Dataset."""
        from benchmarks.drive.files import FilesByUrl
        from benchmarks.peers.wiring.files import Files

        if "://" in self.source:
            return FilesByUrl(self.source)
        return Files(self.setting(USERS))


@dataclass(frozen=True, slots=True)
class Way:
    """One line of the table.

    Attributes:
        open: begins an experiment.
        form: the module of ``benchmarks.peers.wiring`` that wrote what lies on the mount.
        partly: whether only a part is read, and its times are scaled up to all samples.
        keeps: whether anything is kept between experiments.
        fuse: whether it needs a mounted folder; others can do with fsspec.
    """

    name: str
    open: Callable[[Job], Epochs]
    form: str
    partly: bool = False
    keeps: bool = True
    fuse: bool = True


def file_by_file(job: Job) -> Epochs:
    """What the user did: librosa and pretty_midi, in the training process."""
    from torch.utils.data import DataLoader, Subset

    samples = Subset(job.files(), range(job.part))
    loader = DataLoader(samples, batch_size=BATCH, shuffle=True, num_workers=0)
    while True:
        yield iter(loader)


def files_copied(job: Job) -> Epochs:
    """The remedy that tutorials give: copy every file, then read them with workers."""
    from torch.utils.data import DataLoader

    from benchmarks.peers.wiring.files import ANNOTATIONS, Files

    if not job.cache.exists():
        job.cache.mkdir()
        on_mount = job.files()
        kept = {key: on_mount.annotations[key] for key in on_mount.keys[: job.part]}
        for key in kept:
            for suffix in ("flac", "mid"):
                on_mount.copy(f"{key}.{suffix}", job.cache)
        (job.cache / ANNOTATIONS).write_text(json.dumps(kept))
    samples = Files(replace(job.setting(USERS), folder=job.cache))
    loader = DataLoader(
        samples, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )
    while True:
        yield iter(loader)


def shards_copied(job: Job) -> Epochs:
    """All shards copied first, then read by this project."""
    if not job.cache.exists():
        if "://" in job.source:
            files, root = fsspec.core.url_to_fs(job.source)
            files.get(root, str(job.cache), recursive=True)
        else:
            subprocess.run(["cp", "-r", job.source, str(job.cache)], check=True)
    yield from _clavier(job, str(job.cache))


def by_webdataset(job: Job) -> Epochs:
    """Through its cache, which leaves local paths alone: a pipe is what it takes for remote."""
    from benchmarks.peers.wiring.webdataset import pipeline

    job.cache.mkdir(exist_ok=True)
    shards = [f"pipe:cat {path}" for path in sorted(Path(job.source).glob("*.tar"))]
    loader = pipeline(shards, job.setting(SOUNDFILE), cache=str(job.cache))
    while True:
        yield iter(loader)


def by_mosaicml(job: Job) -> Epochs:
    """The mount as ``remote``, the cache as ``local``."""
    from benchmarks.peers.wiring.mosaicml import open_loader

    setting = replace(job.setting(SOUNDFILE), folder=job.cache)
    yield from _epochs(open_loader(setting, remote=Path(job.source)))


def by_litdata(job: Job) -> Epochs:
    """``local:`` before the path, which is how it is told to cache a mounted folder."""
    from benchmarks.peers.wiring.litdata import open_loader

    setting = replace(job.setting(SOUNDFILE), folder=Path(f"local:{job.source}"))
    yield from _epochs(open_loader(setting, cache=job.cache))


def streamed(job: Job) -> Epochs:
    """This project, its shards cached as they are."""
    yield from _clavier(job, job.source, cache_dir=job.cache)


def decoded(job: Job) -> Epochs:
    """This project, its shards cached as they are first and decoded then."""
    yield from _clavier(job, job.source, cache_dir=job.cache, cache="decoded")


def _clavier(job: Job, url: str, **cache: Any) -> Epochs:
    from loader import make_pipeline

    shuffle = job.samples // 10  # what the default of 1,000 is to 10,000 clips
    with make_pipeline(
        url, num_workers=WORKERS, batch_size=BATCH, shuffle=shuffle, **cache
    ) as pipe:
        while True:
            yield iter(pipe)


def _epochs(loader: Any) -> Epochs:
    while True:
        yield loader.epoch()


WAYS = (
    Way("file by file", file_by_file, "files", partly=True, keeps=False, fuse=False),
    Way("files copied first", files_copied, "files", partly=True, fuse=False),
    Way("shards copied first", shards_copied, "clavier", fuse=False),
    Way("webdataset with its cache", by_webdataset, "webdataset"),
    Way("mosaicml-streaming", by_mosaicml, "mosaicml"),
    Way("litdata", by_litdata, "litdata"),
    Way("this project, raw", streamed, "clavier", fuse=False),
    Way("this project, decoded", decoded, "clavier", fuse=False),
)
