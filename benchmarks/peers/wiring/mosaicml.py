"""mosaicml-streaming: MDS shards, a StreamingDataset and its StreamingDataLoader."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# It imports torchvision, whose operators are built for CUDA and do not load beside a CPU torch.
# Nothing here uses them: only what declares their shapes is left out.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("_meta_registrations"))

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: E402

from benchmarks.peers.decoders import Decode, Sample, arrays  # noqa: E402
from benchmarks.peers.setting import (  # noqa: E402
    BATCH,
    DECODED,
    FLAC,
    SEED,
    SHARD_CLIPS,
    UP_TO_CORES,
    Batch,
    Clip,
    Setting,
)

PACKAGES = ("mosaicml-streaming",)
WORKERS = UP_TO_CORES
RESUMES = "StreamingDataLoader.state_dict"
_FILES = {"key": "str", "flac": "bytes", "midi": "bytes", "record": "bytes"}
_ARRAYS = {"key": "str", "audio": "ndarray:int16", "tokens": "ndarray:int16"} | {
    "labels": "ndarray:float32"
}


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    columns = _ARRAYS if kind == DECODED else _FILES
    held = list(clips)
    size = sum(len(c.flac) if kind == FLAC else c.audio.nbytes for c in held) // len(held)
    limit = SHARD_CLIPS * size
    with MDSWriter(out=str(folder), columns=columns, exist_ok=True, size_limit=limit) as writer:
        for clip in held:
            writer.write({name: getattr(clip, name) for name in columns})


def open_loader(setting: Setting, remote: Path | None = None) -> "Loader":
    """``remote``: where the shards come from, into ``setting.folder`` as the cache."""
    return Loader(setting, remote)


class Clips(StreamingDataset):
    """Samples, made where they are read."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__(local=str(setting.folder), **options)
        self.kind, self.decode = setting.kind, Decode(setting.decoders)

    def __getitem__(self, at: int) -> Sample:
        found = super().__getitem__(at)
        if self.kind == DECODED:
            return arrays(*(found[name] for name in _ARRAYS))
        return self.decode.files(*(found[name] for name in _FILES))


class Loader:
    """A dataset and its loader."""

    def __init__(self, setting: Setting, remote: Path | None) -> None:
        self.dataset = Clips(
            setting,
            remote=None if remote is None else str(remote),
            shuffle=True,
            shuffle_seed=SEED,
            batch_size=BATCH,
        )
        self.loader = StreamingDataLoader(
            self.dataset,
            batch_size=BATCH,
            num_workers=setting.workers,
            drop_last=True,
            persistent_workers=setting.workers > 0,
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
