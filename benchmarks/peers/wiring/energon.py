"""Megatron-Energon: a prepared WebDataset of crude samples, a task encoder, its savable loader."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    get_savable_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon.av import AVDecoder
from torch.utils.data import default_collate

from benchmarks.peers.decoders import Decode, Samples, arrays
from benchmarks.peers.setting import (
    BATCH,
    DECODED,
    FLAC,
    SHUFFLE,
    UP_TO_CORES,
    Batch,
    Clip,
    Setting,
)
from benchmarks.peers.wiring import webdataset as tars

PACKAGES = ("megatron-energon",)
WORKERS = UP_TO_CORES
RESUMES = "save_state_rank"
_SEQUENCE = 100  # samples read in a row: what its documentation uses


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    tars.prepare(clips, folder, kind)
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
    energon = str(Path(sys.executable).with_name("energon"))
    subprocess.run([energon, "prepare", *options, str(folder)], check=True, stdout=sys.stderr)


def by_energon(flac: bytes) -> Samples:
    """Mono audio by the decoder that it hands to its users, PyAV."""
    clips = AVDecoder(BytesIO(flac)).get_audio().audio_clips
    samples = clips[0][0].numpy()
    return samples if samples.dtype == np.float32 else samples.astype(np.float32) / 32768


@dataclass
class Clean(Sample):
    """A sample of tensors."""

    audio: torch.Tensor
    midi: torch.Tensor
    labels: torch.Tensor


class Encoder(DefaultTaskEncoder):
    """Cooks samples out of members, and stacks them."""

    decoder = None  # members come as bytes

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.kind, self.decode = setting.kind, Decode(setting.decoders, by_energon)
        self.cookers = [Cooker(self.cook)]

    @stateless
    def cook(self, crude: dict[str, Any]) -> Clean:
        key = crude["__key__"]
        if self.kind == DECODED:
            found = (crude[f"{name}.npy"] for name in ("audio", "tokens", "labels"))
            sample = arrays(key, *(np.load(BytesIO(data)) for data in found))
        else:
            sample = self.decode.files(key, crude[FLAC], crude["mid"], crude["json"])
        del sample["__key__"]
        return Clean(**basic_sample_keys(crude), **sample)

    @stateless
    def batch(self, samples: list[Clean]) -> Batch:
        rows = [{n: getattr(s, n) for n in ("audio", "midi", "labels")} for s in samples]
        return {**default_collate(rows), "__key__": [_plain(s.__key__) for s in samples]}

    @stateless
    def encode_batch(self, batch: Batch) -> Batch:
        return batch


def _plain(key: str) -> str:
    """A key without the shard that it puts in front."""
    return key.rpartition("/")[2]


def open_loader(setting: Setting) -> "Loader":
    return Loader(setting)


class Loader:
    """A loader without end, of which an epoch is cut off."""

    def __init__(self, setting: Setting) -> None:
        workers = WorkerConfig(rank=0, world_size=1, num_workers=setting.workers)
        dataset = get_train_dataset(
            setting.folder,
            batch_size=BATCH,
            shuffle_buffer_size=SHUFFLE,
            max_samples_per_sequence=_SEQUENCE,
            task_encoder=Encoder(setting),
            worker_config=workers,
        )
        self.loader = get_savable_loader(dataset, checkpoint_every_sec=1)
        self.running: Any = None

    def epoch(self) -> Iterator[Batch]:
        if self.running is None:
            self.running = iter(self.loader)
        return islice(self.running, 10**9)

    def state(self) -> Any:
        return self.loader.save_state_rank()

    def resumed(self, state: Any) -> Iterator[Batch]:
        self.loader.restore_state_rank(state)
        return iter(self.loader)

    def close(self) -> None:
        self.running = None
        del self.loader
