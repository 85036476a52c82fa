"""SPDL: a pipeline of threads in one process, out of files; FLAC by its own FFmpeg bindings."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import spdl.io
from spdl.pipeline import PipelineBuilder
from torch.utils.data import default_collate

from benchmarks.peers.decoders import Decode, Samples
from benchmarks.peers.setting import BATCH, SEED, UP_TO_CORES, Batch, Clip, Setting
from benchmarks.peers.wiring import files

PACKAGES = ("spdl",)
WORKERS = tuple(sorted({*UP_TO_CORES, 4} - {0}))  # threads: it has no setting without
RESUMES = "no; its source is a list, which begins later"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    files.prepare(clips, folder, kind)


def by_spdl(flac: Any) -> Samples:
    """Mono audio by FFmpeg, of a file or its bytes."""
    return spdl.io.to_numpy(spdl.io.load_audio(flac))[0]


def open_loader(setting: Setting) -> "Loader":
    return Loader(setting)


class Loader:
    """A pipeline built anew for every epoch, as it ends with its source."""

    def __init__(self, setting: Setting) -> None:
        self.samples = files.Files(setting)
        self.samples.decode = Decode(setting.decoders, by_spdl)
        self.threads, self.number, self.seen = setting.workers, 0, 0

    def epoch(self) -> Iterator[Batch]:
        self.seen = 0
        for batch in self._run(0):
            self.seen += 1
            yield batch
        self.number += 1

    def _run(self, seen: int) -> Iterator[Batch]:
        order = list(range(len(self.samples)))
        random.Random(f"{SEED} {self.number}").shuffle(order)
        pipeline = (
            PipelineBuilder()
            .add_source(order[seen * BATCH :])
            .pipe(self.samples.__getitem__, concurrency=self.threads)
            .aggregate(BATCH, drop_last=True)
            .pipe(default_collate)
            .add_sink(3)
            .build(num_threads=self.threads + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline

    def state(self) -> Any:
        return self.number, self.seen

    def resumed(self, state: Any) -> Iterator[Batch]:
        self.number, seen = state
        return self._run(seen)

    def close(self) -> None: ...
