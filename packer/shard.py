"""Puts encoded samples together into shards."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packer.encode import Encoded
from shards.index import index_bytes
from shards.manifest import ShardInfo
from shards.tar import END_OF_ARCHIVE


@dataclass(frozen=True, slots=True)
class Written:
    """A finished shard: its entry in the manifest, its samples in order, its index's SHA-256."""

    info: ShardInfo
    samples: tuple[int, ...]
    index_sha256: str


def shard_name(number: int) -> str:
    """Name of the tar of a number."""
    return f"shard-{number:06d}.tar"


def write_shard(
    samples: tuple[int, ...], encoded: Mapping[int, tuple[Path, Encoded]], path: Path
) -> Written:
    """Write a tar and its ``.idx``.

    Args:
        samples: which, in order.
        encoded: spool file and place in it, by sample.
    """
    digest, offsets = hashlib.sha256(), [0]
    with path.open("wb") as tar:
        for sample in samples:
            blocks = _blocks(*encoded[sample])
            tar.write(blocks)
            digest.update(blocks)
            offsets.append(offsets[-1] + len(blocks))
        tar.write(END_OF_ARCHIVE)
        digest.update(END_OF_ARCHIVE)
        size = tar.tell()
    index = index_bytes(offsets)
    path.with_name(f"{path.name}.idx").write_bytes(index)
    info = ShardInfo(path.name, len(samples), size, digest.hexdigest())
    return Written(info, samples, hashlib.sha256(index).hexdigest())


def _blocks(spool: Path, place: Encoded) -> bytes:
    with spool.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.size)
