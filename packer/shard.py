"""Puts encoded samples together into shards."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packer.encode import Encoded
from shards.index import index_bytes
from shards.manifest import ShardInfo
from shards.tar import END_OF_ARCHIVE


@dataclass(frozen=True, slots=True)
class Written:
    """A finished shard: its entry in the manifest, and its samples in order."""

    info: ShardInfo
    samples: tuple[int, ...]


def write_shards(
    shards: Sequence[Sequence[int]],
    encoded: Mapping[int, tuple[Path, Encoded]],
    folder: Path,
    *,
    first: int,
) -> Iterator[Written]:
    """Write ``shard-NNNNNN.tar`` and its ``.idx`` for each planned shard, and yield it.

    Args:
        shards: samples of each shard, in order; those not in ``encoded`` were rejected.
        encoded: spool file and place in it, by sample.
        first: number of the first shard.
    """
    number = first
    for planned in shards:
        samples = tuple(index for index in planned if index in encoded)
        if samples:
            yield _write(samples, encoded, folder / f"shard-{number:06d}.tar")
            number += 1


def _write(
    samples: tuple[int, ...], encoded: Mapping[int, tuple[Path, Encoded]], path: Path
) -> Written:
    digest, offsets = hashlib.sha256(), [0]
    with path.open("wb") as tar:
        for index in samples:
            blocks = _blocks(*encoded[index])
            tar.write(blocks)
            digest.update(blocks)
            offsets.append(offsets[-1] + len(blocks))
        tar.write(END_OF_ARCHIVE)
        digest.update(END_OF_ARCHIVE)
        size = tar.tell()
    path.with_name(path.name + ".idx").write_bytes(index_bytes(offsets))
    return Written(ShardInfo(path.name, len(samples), size, digest.hexdigest()), samples)


def _blocks(spool: Path, place: Encoded) -> bytes:
    with spool.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.size)
