"""Hugging Face datasets: Parquet files, read once into Arrow files that are mapped."""

from collections.abc import Iterator
from pathlib import Path

import datasets

from benchmarks.peers.setting import UP_TO_CORES, Clip, Setting
from benchmarks.peers.torch_loaders import MapLoader
from benchmarks.peers.wiring.huggingface import Collate, prepared, write_parquet

PACKAGES = ("datasets", "torchcodec")
WORKERS = UP_TO_CORES
RESUMES = "torchdata's StatefulDataLoader"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    write_parquet(clips, folder, kind)
    _load(folder)


def open_loader(setting: Setting) -> MapLoader:
    dataset = prepared(_load(setting.folder), setting)
    return MapLoader(dataset, setting, collate=Collate(setting))


def _load(folder: Path) -> datasets.Dataset:
    files = sorted(str(path) for path in folder.glob("*.parquet"))
    cache = str(folder / "arrow")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
