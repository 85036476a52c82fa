"""This project: ``make_pipeline`` over its own shards; decoded, out of its own cache."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.clips import decoded_cache, decoded_tars
from benchmarks.peers.setting import (
    BATCH,
    DECODED,
    OURS,
    SHUFFLE,
    SOUNDFILE,
    UP_TO_CORES,
    Batch,
    Clip,
    Setting,
)
from loader import make_pipeline
from loader.fast_decoders import FAST

PACKAGES = ("miniaudio", "soundfile", "symusic")
WORKERS = UP_TO_CORES  # threads
DECODERS = OURS
RESUMES = "Pipeline.state_dict"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    """Its shards are the dataset itself."""


def stored(setting: Setting) -> Path:
    """Where the shards lie: decoded, they are made here, once."""
    return decoded_tars(setting.dataset) if setting.kind == DECODED else setting.dataset


def open_loader(setting: Setting) -> "Loader":
    if setting.decoders == SOUNDFILE:
        FAST.clear()  # what is left of its decoders of FLAC
    return Loader(setting)


class Loader:
    """A pipeline."""

    def __init__(self, setting: Setting) -> None:
        cache = decoded_cache(setting.dataset) if setting.kind == DECODED else {}
        self.pipe = make_pipeline(
            setting.dataset,
            num_workers=setting.workers,
            batch_size=BATCH,
            shuffle=SHUFFLE,
            **cache,
        )

    def epoch(self) -> Iterator[Batch]:
        return iter(self.pipe)

    def state(self) -> Any:
        return self.pipe.state_dict()

    def resumed(self, state: Any) -> Iterator[Batch]:
        self.pipe.load_state_dict(state)
        return iter(self.pipe)

    def close(self) -> None:
        self.pipe.close()
