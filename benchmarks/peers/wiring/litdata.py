"""litdata: chunks written by its optimize, a StreamingDataset and its StreamingDataLoader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litdata

from benchmarks.peers.decoders import Decode, Sample, arrays
from benchmarks.peers.setting import (
    BATCH,
    DECODED,
    SEED,
    SHARD_CLIPS,
    UP_TO_CORES,
    Batch,
    Clip,
    Setting,
)

PACKAGES = ("litdata",)
WORKERS = UP_TO_CORES
RESUMES = "StreamingDataLoader.state_dict"
_FILES = ("key", "flac", "midi", "record")
_ARRAYS = ("key", "audio", "tokens", "labels")


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    names = _ARRAYS if kind == DECODED else _FILES
    litdata.optimize(
        fn=_Take(names),
        inputs=list(clips),
        output_dir=str(folder),
        chunk_size=SHARD_CLIPS,
        num_workers=1,
        mode="overwrite",
    )


class _Take:
    """What is stored of a clip."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __call__(self, clip: Clip) -> dict[str, Any]:
        return {name: getattr(clip, name) for name in self.names}


def open_loader(setting: Setting, cache: Path | None = None) -> "Loader":
    """``cache``: where chunks are kept that come from a slower place."""
    return Loader(setting, cache)


class Clips(litdata.StreamingDataset):
    """Samples, made where they are read."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__(str(setting.folder), shuffle=True, drop_last=True, seed=SEED, **options)
        self.kind, self.decode = setting.kind, Decode(setting.decoders)

    def __getitem__(self, index: Any) -> Sample:
        found = super().__getitem__(index)
        if self.kind == DECODED:
            return arrays(*(found[name] for name in _ARRAYS))
        return self.decode.files(*(found[name] for name in _FILES))


class Loader:
    """A dataset and its loader."""

    def __init__(self, setting: Setting, cache: Path | None) -> None:
        options = {} if cache is None else {"cache_dir": str(cache)}
        self.loader = litdata.StreamingDataLoader(
            Clips(setting, **options),
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
        del self.loader
