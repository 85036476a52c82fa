"""Datasets of MIDI and labels, most shards of which are only listed or links: to measure starts."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import symusic

from shards.index import index_bytes
from shards.manifest import NAME, Manifest, ShardInfo, dump_manifest
from shards.tar import END_OF_ARCHIVE, sample_bytes


def midi_bytes(path: Path) -> bytes:
    """A piece of eight notes, written to ``path``."""
    score, track = symusic.Score(480), symusic.Track()
    for number in range(8):
        track.notes.append(symusic.Note(480 * number, 240, 60 + number, 64))
    score.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    score.dump_midi(str(path))
    return path.read_bytes()


def write_listed(
    folder: Path, midi: bytes, *, samples: int, shards: int, listed: int = 0, rows: int = 0
) -> None:
    """A dataset whose manifest lists further shards, of ``rows`` samples, that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = np.array_split([key(number) for number in range(samples)], shards)
    infos = [write_shard(folder, number, own.tolist(), midi) for number, own in enumerate(keys)]
    for number in range(shards, listed):
        digest = sha256(str(number).encode()).hexdigest()
        infos.append(ShardInfo(shard_name(number), rows, infos[0].filesize, digest))
    write_manifest(folder, infos)


def write_linked(folder: Path, midi: bytes, *, shards: int, rows: int) -> None:
    """A dataset that can be read anywhere: all its shards are links to the first one."""
    folder.mkdir(parents=True, exist_ok=True)
    first = write_shard(folder, 0, [key(number) for number in range(rows)], midi)
    infos = [first]
    for number in range(1, shards):
        name = shard_name(number)
        for suffix in ("", ".idx"):
            (folder / f"{name}{suffix}").symlink_to(f"{first.url}{suffix}")
        infos.append(ShardInfo(name, rows, first.filesize, first.sha256))
    write_manifest(folder, infos)


def write_shard(folder: Path, number: int, keys: list[str], midi: bytes) -> ShardInfo:
    record = json.dumps({"labels": {}, "midi_beat": 0.0}).encode()
    parts = [sample_bytes(key, {"json": record, "mid": midi}) for key in keys]
    data = b"".join(parts) + END_OF_ARCHIVE
    (folder / shard_name(number)).write_bytes(data)
    offsets = np.cumsum([0, *map(len, parts)])
    (folder / f"{shard_name(number)}.idx").write_bytes(index_bytes(offsets.astype(np.uint64)))
    return ShardInfo(shard_name(number), len(keys), len(data), sha256(data).hexdigest())


def write_manifest(folder: Path, infos: list[ShardInfo]) -> None:
    """Last, so that a folder with a manifest is whole."""
    manifest = Manifest(folder.name, infos, fields={"midi": "mid"}, packer_version="benchmark")
    (folder / NAME).write_bytes(dump_manifest(manifest))


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def key(number: int) -> str:
    return f"piece-{number // 100:06d}-{number % 100 * 10000}"
