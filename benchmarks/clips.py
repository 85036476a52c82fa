"""The clips that benchmarks read: a packed dataset of made pieces, and its decoded shards."""

from pathlib import Path
from typing import Any

from loader import make_pipeline
from loader.decoded import folder_suffix
from packer.build import build
from packer.corpus import write_corpus
from packer.options import Options

RATE, SECONDS = 24000, 10.0
EXCERPTS_A_PIECE = 6


def make_dataset(work: Path, clips: int, *, shard_mb: int = 32) -> Path:
    """Ten-second clips of made pieces as FLAC at 24 kHz, with MIDI and JSON."""
    folder = work / f"{clips}-{shard_mb}"
    shards = folder / "shards"
    if not (shards / "manifest.json").exists():
        annotations = write_corpus(folder / "corpus", pieces=-(-clips // EXCERPTS_A_PIECE))
        lines = annotations.read_text().splitlines()[:clips]
        annotations.write_text("\n".join(lines) + "\n")
        build(annotations, str(shards), options=Options(shard_bytes=shard_mb * 10**6))
    return shards


def decoded_cache(dataset: Path) -> dict[str, Any]:
    """Arguments of a pipeline that keeps decoded shards beside the dataset."""
    return {"cache": "decoded", "cache_dir": dataset.parent / "cache", "cache_bytes": 10**10}


def decoded_tars(dataset: Path) -> Path:
    """The folder of the cache with all of a dataset's shards, decoded.

    Folders of earlier versions of the cache may lie beside it: the one written last is meant.
    """
    shards, cache = len(list(dataset.glob("*.tar"))), dataset.parent / "cache"
    with make_pipeline(dataset, **decoded_cache(dataset)) as pipe:
        while True:
            for _ in pipe:
                pass
            folders = list(cache.glob(f"*{folder_suffix(RATE)}"))
            last = max(folders, key=lambda folder: folder.stat().st_mtime, default=cache)
            if len(list(last.glob("*.tar"))) == shards:
                return last
