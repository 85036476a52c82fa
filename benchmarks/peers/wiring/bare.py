"""The limit: two processes that read and decode every clip into one buffer, and make no batches."""

import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import decoded_tars
from benchmarks.peers.setting import DECODED, FRAMES, OURS, RATE, Batch, Clip, Setting
from loader.audio import decode_window
from loader.fast_decoders import copy_samples
from shards.npy import npy_view
from shards.reader import ShardReader

PACKAGES = ("miniaudio",)
WORKERS = (2,)
DECODERS = OURS
RESUMES = ""


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    """It reads this project's shards."""


def stored(setting: Setting) -> Path:
    """Where those lie, decoded ones in its cache."""
    return decoded_tars(setting.dataset) if setting.kind == DECODED else setting.dataset


def open_loader(setting: Setting) -> "Loader":
    return Loader(setting)


class Loader:
    """A pool of processes, a shard a task."""

    def __init__(self, setting: Setting) -> None:
        self.tars = sorted(str(path) for path in stored(setting).glob("*.tar"))
        self.loop = partial(_read, decoded=setting.kind == DECODED)
        self.pool = multiprocessing.get_context("spawn").Pool(setting.workers)

    def epoch(self) -> Iterator[Batch]:
        for keys in self.pool.imap_unordered(self.loop, self.tars):
            yield {"__key__": keys}

    def state(self) -> Any:
        raise NotImplementedError("a bare loop has no state")

    def resumed(self, state: Any) -> Iterator[Batch]:
        raise NotImplementedError("a bare loop has no state")

    def close(self) -> None:
        self.pool.terminate()


def _read(tar: str, *, decoded: bool) -> list[str]:
    """Read a shard's clips, one after the other, into the same row; their keys."""
    row, keys = np.empty(FRAMES, np.float32), []
    with ShardReader(Path(tar)) as reader:
        for number in range(len(reader)):
            keys.append(reader.members(number)[0].key)
            files = reader.read(number)
            if decoded:
                copy_samples(npy_view(files["audio.npy"]), row)
            else:
                decode_window(files["flac"], "flac", row, sample_rate=RATE)
    return keys
