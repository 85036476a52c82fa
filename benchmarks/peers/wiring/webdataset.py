"""webdataset: its pipeline of shards, shuffle buffer, decode, map and batched, in a WebLoader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset
from torch.utils.data import default_collate

from benchmarks.peers.decoders import Decode, Sample, arrays
from benchmarks.peers.setting import BATCH, DECODED, SEED, SHUFFLE, UP_TO_CORES, Clip, Setting
from benchmarks.peers.source import in_shards
from benchmarks.peers.torch_loaders import Skipping

PACKAGES = ("webdataset",)
WORKERS = UP_TO_CORES
RESUMES = "no; skips samples before they are decoded"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    for number, shard in enumerate(in_shards(clips)):
        with webdataset.TarWriter(str(folder / f"shard-{number:06d}.tar")) as writer:
            for clip in shard:
                writer.write({"__key__": clip.key, **members(clip, kind)})


def members(clip: Clip, kind: str) -> dict[str, Any]:
    """A clip's members by extension."""
    if kind == DECODED:
        return {"audio.npy": clip.audio, "tokens.npy": clip.tokens, "labels.npy": clip.labels}
    return {"flac": clip.flac, "mid": clip.midi, "json": clip.record}


def open_loader(setting: Setting) -> Skipping:
    shards = sorted(str(path) for path in setting.folder.glob("*.tar"))
    if setting.resumable:
        return Skipping(lambda seen: iter(pipeline(shards, setting, seen=seen)))
    loader = pipeline(shards, setting)
    return Skipping(lambda seen: iter(loader))


def pipeline(
    shards: list[str], setting: Setting, *, seen: int = 0, cache: str | None = None
) -> Any:
    """Batches of one epoch, of which the first ``seen`` are skipped before they are decoded."""
    stages = webdataset.WebDataset(
        shards, shardshuffle=100, detshuffle=True, seed=SEED, cache_dir=cache
    )
    stages = stages.shuffle(SHUFFLE, initial=100, seed=SEED)
    if seen:
        stages = stages.slice(seen * BATCH // max(1, setting.workers), None)
    stages = stages.decode() if setting.kind == DECODED else stages
    stages = stages.map(Make(setting)).batched(BATCH, collation_fn=default_collate, partial=False)
    return webdataset.WebLoader(
        stages,
        batch_size=None,
        num_workers=setting.workers,
        persistent_workers=setting.workers > 0,
    )


class Make:
    """A sample out of a tar's members."""

    def __init__(self, setting: Setting) -> None:
        self.kind, self.decode = setting.kind, Decode(setting.decoders)

    def __call__(self, sample: dict[str, Any]) -> Sample:
        key = sample["__key__"]
        if self.kind == DECODED:
            return arrays(key, *(sample[f"{name}.npy"] for name in ("audio", "tokens", "labels")))
        return self.decode.files(key, sample["flac"], sample["mid"], sample["json"])
