"""What the three ways of Hugging Face datasets share: rows into samples, Parquet files, epochs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch.utils.data import default_collate

from benchmarks.peers.decoders import Decode, Sample, arrays
from benchmarks.peers.setting import BATCH, DECODED, SEED, SHUFFLE, USERS, Batch, Clip, Setting
from benchmarks.peers.source import in_shards
from benchmarks.peers.torch_loaders import loader_kind

_NUMBERS = {"audio": "int16", "tokens": "int16", "labels": "float32"}


def write_parquet(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    """Shards as ``Dataset.to_parquet`` writes them."""
    for number, shard in enumerate(in_shards(clips)):
        table = _arrays(shard) if kind == DECODED else _files(shard)
        table.to_parquet(str(folder / f"{number:05d}.parquet"))


def _files(shard: list[Clip]) -> datasets.Dataset:
    flac = [{"bytes": clip.flac, "path": f"{clip.key}.flac"} for clip in shard]
    rows = {"flac": flac, "mid": [c.midi for c in shard], "json": [c.record for c in shard]}
    rows["key"] = [clip.key for clip in shard]
    binary = {name: datasets.Value("binary") for name in ("mid", "json")}
    features = {"key": datasets.Value("string"), "flac": datasets.Audio(), **binary}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def _arrays(shard: list[Clip]) -> datasets.Dataset:
    """Columns made by pyarrow: ``from_dict`` goes through every number, which takes minutes."""
    columns: dict[str, Any] = {"key": [clip.key for clip in shard]}
    for name in _NUMBERS:
        rows = [getattr(clip, name).ravel() for clip in shard]
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
        columns[name] = pa.ListArray.from_arrays(offsets, np.concatenate(rows))
    return datasets.Dataset(datasets.table.InMemoryTable(pa.table(columns)))


def prepared(dataset: Any, setting: Setting) -> Any:
    """The dataset, of arrays or with its own decoding where users have that."""
    if setting.kind == DECODED:
        return dataset.with_format("numpy")
    if setting.decoders == USERS:
        return dataset
    return dataset.cast_column("flac", datasets.Audio(decode=False))


class Collate:
    """A batch out of rows."""

    def __init__(self, setting: Setting) -> None:
        self.kind, self.decoders = setting.kind, setting.decoders
        self.decode = Decode(setting.decoders)

    def __call__(self, rows: list[Sample]) -> Batch:
        return default_collate([self.sample(row) for row in rows])

    def sample(self, row: Sample) -> Sample:
        key = row["key"] if "key" in row else row["__key__"]
        if self.kind == DECODED:
            audio, tokens, labels = (_array(row, name) for name in _NUMBERS)
            return arrays(str(key), audio, tokens.reshape(-1, 8), labels)
        if self.decoders == USERS:
            audio = row["flac"].get_all_samples().data[0]
            return self.decode.audio(key, audio, row["mid"], row["json"])
        return self.decode.files(key, row["flac"]["bytes"], row["mid"], row["json"])


def _array(row: Sample, name: str) -> Any:
    found = row[name] if name in row else row[f"{name}.npy"]
    return np.asarray(found, dtype=_NUMBERS[name])


class Streaming:
    """A streamed dataset in PyTorch's DataLoader, or torchdata's stateful one where it resumes."""

    def __init__(self, dataset: Any, setting: Setting) -> None:
        self.dataset = prepared(dataset.shuffle(seed=SEED, buffer_size=SHUFFLE), setting)
        self.loader = loader_kind(setting)(
            self.dataset,
            batch_size=BATCH,
            drop_last=True,
            num_workers=setting.workers,
            persistent_workers=setting.workers > 0,
            collate_fn=Collate(setting),
        )

    def epoch(self) -> Iterator[Batch]:
        return iter(self.loader)

    def state(self) -> Any:
        return self.loader.state_dict()

    def resumed(self, state: Any) -> Iterator[Batch]:
        self.loader.load_state_dict(state)
        return iter(self.loader)

    def close(self) -> None:
        del self.loader, self.dataset
