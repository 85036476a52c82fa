"""Grain: an ArrayRecord source, shuffled, mapped and batched, read by threads."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
from array_record.python.array_record_module import ArrayRecordWriter
from torch.utils.data import default_collate

from benchmarks.peers.decoders import Decode, Sample, arrays
from benchmarks.peers.setting import BATCH, DECODED, SEED, UP_TO_CORES, Batch, Clip, Setting
from benchmarks.peers.source import in_shards

PACKAGES = ("grain", "array-record")
WORKERS = UP_TO_CORES  # threads that read and map
RESUMES = "DatasetIterator.get_state"
_FILES = ("key", "flac", "midi", "record")
_ARRAYS = ("key", "audio", "tokens", "labels")


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    names = _ARRAYS if kind == DECODED else _FILES
    for number, shard in enumerate(in_shards(clips)):
        writer = ArrayRecordWriter(
            str(folder / f"{number:05d}.array_record"), "group_size:1,uncompressed"
        )
        for clip in shard:
            writer.write(pickle.dumps([getattr(clip, name) for name in names], protocol=5))
        writer.close()


def open_loader(setting: Setting) -> "Loader":
    return Loader(setting)


class Make:
    """A sample out of a record."""

    def __init__(self, setting: Setting) -> None:
        self.make = arrays if setting.kind == DECODED else Decode(setting.decoders).files

    def __call__(self, record: bytes) -> Sample:
        return self.make(*pickle.loads(record))  # noqa: S301, packed by this module


class Loader:
    """A dataset whose iterator is its state."""

    def __init__(self, setting: Setting) -> None:
        paths = sorted(str(path) for path in setting.folder.glob("*.array_record"))
        source = grain.sources.ArrayRecordDataSource(paths)
        mapped = grain.MapDataset.source(source).seed(SEED).shuffle().map(Make(setting))
        batched = mapped.batch(BATCH, drop_remainder=True, batch_fn=default_collate)
        buffer = max(1, 2 * setting.workers)
        options = grain.ReadOptions(num_threads=setting.workers, prefetch_buffer_size=buffer)
        self.dataset = batched.to_iter_dataset(options)
        self.iterator: Any = None

    def epoch(self) -> Iterator[Batch]:
        self.iterator = iter(self.dataset)
        return self.iterator

    def state(self) -> Any:
        return self.iterator.get_state()

    def resumed(self, state: Any) -> Iterator[Batch]:
        self.iterator = iter(self.dataset)
        self.iterator.set_state(state)
        return self.iterator

    def close(self) -> None:
        self.iterator = None
