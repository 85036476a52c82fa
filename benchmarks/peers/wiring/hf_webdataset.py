"""Hugging Face datasets: a WebDataset, streamed."""

from collections.abc import Iterator
from pathlib import Path

import datasets

from benchmarks.peers.setting import UP_TO_CORES, Clip, Setting
from benchmarks.peers.wiring import webdataset as tars
from benchmarks.peers.wiring.huggingface import Streaming

PACKAGES = ("datasets", "torchcodec")
WORKERS = UP_TO_CORES
RESUMES = "torchdata's StatefulDataLoader; its shuffle buffer is lost"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    tars.prepare(clips, folder, kind)


def open_loader(setting: Setting) -> Streaming:
    files = sorted(str(path) for path in setting.folder.glob("*.tar"))
    dataset = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    return Streaming(dataset, setting)
