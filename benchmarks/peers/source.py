"""The clips of a packed dataset, one after the other, for peers to write in their formats."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.peers.decoders import tokens_by_symusic
from benchmarks.peers.setting import NOTES, SHARD_CLIPS, Clip
from shards.reader import ShardReader


def read_clips(dataset: Path) -> Iterator[Clip]:
    for tar in sorted(dataset.glob("*.tar")):
        with ShardReader(tar) as reader:
            for row in range(len(reader)):
                files = reader.read(row)
                yield _clip(reader.members(row)[0].key, files["flac"], files["mid"], files["json"])


def _clip(key: str, flac: bytes, midi: bytes, record: bytes) -> Clip:
    meta = json.loads(record)
    audio = soundfile.read(BytesIO(flac), dtype="int16")[0]
    tokens = tokens_by_symusic(midi, meta)[:NOTES].astype(np.int16)
    labels = np.array(list(meta["labels"].values()), dtype=np.float32)
    return Clip(key, flac, midi, record, audio, tokens, labels)


def in_shards(clips: Iterator[Clip]) -> Iterator[list[Clip]]:
    """As many clips at a time as go into a shard."""
    shard: list[Clip] = []
    for clip in clips:
        shard.append(clip)
        if len(shard) == SHARD_CLIPS:
            yield shard
            shard = []
    if shard:
        yield shard
