"""wids: webdataset's indexed shards, with its own sampler, in PyTorch's DataLoader."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import wids

from benchmarks.peers.decoders import Decode, Sample, arrays
from benchmarks.peers.setting import DECODED, SEED, SHUFFLE, UP_TO_CORES, Clip, Setting
from benchmarks.peers.source import in_shards
from benchmarks.peers.torch_loaders import MapLoader
from benchmarks.peers.wiring import webdataset as tars

PACKAGES = ("wids",)
WORKERS = UP_TO_CORES
RESUMES = "torchdata's StatefulDataLoader"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    counted = []

    def counting() -> Iterator[Clip]:
        for shard in in_shards(clips):
            counted.append(len(shard))
            yield from shard

    tars.prepare(counting(), folder, kind)
    names = sorted(path.name for path in folder.glob("*.tar"))
    shards = [{"url": n, "nsamples": c} for n, c in zip(names, counted, strict=True)]
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    (folder / "index.json").write_text(json.dumps(index))


def open_loader(setting: Setting) -> MapLoader:
    dataset = wids.ShardListDataset(
        str(setting.folder / "index.json"), localname=lambda url: url, transformations=[], keep=True
    )
    dataset.add_transform(Make(setting))
    sampler = wids.ChunkedSampler(dataset, chunksize=SHUFFLE, seed=SEED, shuffle=True)
    return MapLoader(dataset, setting, sampler=sampler)


class Make:
    """A sample out of a tar's members, which are open files."""

    def __init__(self, setting: Setting) -> None:
        self.kind, self.decode = setting.kind, Decode(setting.decoders)

    def __call__(self, sample: dict[str, Any]) -> Sample:
        key = sample["__key__"]
        if self.kind == DECODED:
            found = (sample[f".{name}.npy"].read() for name in ("audio", "tokens", "labels"))
            return arrays(key, *(np.load(BytesIO(data)) for data in found))
        return self.decode.files(key, *(sample[f".{x}"].read() for x in ("flac", "mid", "json")))
