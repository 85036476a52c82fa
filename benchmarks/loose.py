"""Clips as files of their own, read one after the other: what a training does without shards."""

import shutil
import time
from pathlib import Path

from shards.reader import ShardReader


def unpack(shard: Path, folder: Path, clips: int) -> Path:
    """The first clips of a shard as files; the folder is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with ShardReader(shard) as reader:
        for row in range(clips):
            for extension, data in reader.read(row).items():
                (folder / f"{row}.{extension}").write_bytes(data)
    return folder


def read_s(folder: Path, clips: int) -> float:
    """Seconds that reading audio and MIDI of a clip takes, on average."""
    began = time.perf_counter()
    for row in range(clips):
        for extension in ("flac", "mid"):
            (folder / f"{row}.{extension}").read_bytes()
    return (time.perf_counter() - began) / clips
