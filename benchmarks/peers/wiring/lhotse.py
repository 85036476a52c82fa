"""Lhotse Shar: cuts with their recordings in tars, a dynamic sampler, batches made by a dataset.

Runs with LHOTSE_AUDIO_BACKEND=LibsndfileBackend: the default looks for torchaudio's own.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet, Recording
from lhotse.dataset import DynamicCutSampler, IterableDatasetWrapper, make_worker_init_fn
from lhotse.shar import SharWriter
from torch.utils.data import DataLoader, default_collate

from benchmarks.peers.decoders import Decode, Sample, finish
from benchmarks.peers.setting import (
    BATCH,
    DECODED,
    OURS,
    SEED,
    SHARD_CLIPS,
    SHUFFLE,
    UP_TO_CORES,
    Batch,
    Clip,
    Setting,
)

PACKAGES = ("lhotse",)
WORKERS = UP_TO_CORES
RESUMES = "the sampler's state_dict, without workers"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    """Decoded is WAV, its format without compression. MIDI and labels are in the manifest."""
    audio = "wav" if kind == DECODED else "flac"
    with SharWriter(str(folder), fields={"recording": audio}, shard_size=SHARD_CLIPS) as writer:
        for clip in clips:
            cut = Recording.from_bytes(clip.flac, clip.key).to_cut()
            cut.id = clip.key
            if kind == DECODED:
                cut.tokens, cut.labels = clip.tokens.tolist(), clip.labels.tolist()
            else:
                cut.midi = base64.b64encode(clip.midi).decode()
                cut.json = clip.record.decode()
            writer.write(cut)


def open_loader(setting: Setting) -> "Loader":
    return Loader(setting)


class Batches(torch.utils.data.Dataset):
    """A batch for a CutSet that the sampler chose."""

    def __init__(self, setting: Setting) -> None:
        self.kind, self.decoders = setting.kind, setting.decoders
        self.decode = Decode(setting.decoders)

    def __getitem__(self, cuts: CutSet) -> Batch:
        return default_collate([self._sample(cut) for cut in cuts])

    def _sample(self, cut: Any) -> Sample:
        if self.kind == DECODED:
            return finish(cut.id, cut.load_audio()[0], cut.tokens, cut.labels)
        midi = base64.b64decode(cut.midi)
        if self.decoders == OURS:
            flac = cut.recording.sources[0].source
            return self.decode.files(cut.id, flac, midi, cut.json)
        return self.decode.audio(cut.id, cut.load_audio()[0], midi, cut.json)


class Loader:
    """Shards, a sampler, and PyTorch's DataLoader around both."""

    def __init__(self, setting: Setting) -> None:
        cuts = CutSet.from_shar(
            in_dir=str(setting.folder),
            shuffle_shards=True,
            split_for_dataloading=True,
            seed=SEED,
        )
        self.sampler = DynamicCutSampler(
            cuts,
            max_cuts=BATCH,
            shuffle=True,
            shuffle_buffer_size=SHUFFLE,
            drop_last=True,
            seed=SEED,
        )
        workers = 0 if setting.resumable else setting.workers
        self.loader = DataLoader(
            IterableDatasetWrapper(Batches(setting), self.sampler, auto_increment_epoch=True),
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=make_worker_init_fn(seed=SEED),
        )

    def epoch(self) -> Iterator[Batch]:
        return iter(self.loader)

    def state(self) -> Any:
        return self.sampler.state_dict()

    def resumed(self, state: Any) -> Iterator[Batch]:
        self.sampler.load_state_dict(state)
        return iter(self.loader)

    def close(self) -> None:
        del self.loader
