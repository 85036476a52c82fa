"""The ``.tar.idx`` beside a shard: where each sample starts, in Megatron-Energon's layout."""

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError

Offsets = NDArray[np.uint64]


def index_bytes(offsets: list[int] | Offsets) -> bytes:
    """Little-endian uint64: N sample starts, then the start of the end-of-archive blocks."""
    return np.asarray(offsets, dtype="<u8").tobytes()


def parse_index(data: bytes, *, samples: int, tar_bytes: int, name: str) -> Offsets:
    """Offsets of a shard, checked against what is known of it.

    Args:
        data: content of a ``.tar.idx``.
        samples: how many samples the shard has.
        tar_bytes: size of the tar. The last offset may be it (Lhotse's convention) or the start
            of the end-of-archive blocks (Energon's).
        name: what to call the index in an error.

    Returns:
        (N + 1,) uint64, rising; sample ``i`` lies between ``[i]`` and ``[i + 1]``.

    Raises:
        ShardError: if the index does not fit the shard.
    """
    if len(data) != 8 * (samples + 1):
        raise ShardError(
            f"{name}: {len(data)} bytes do not index {samples} samples; expected "
            f"{8 * (samples + 1)}. Remove it, and the tar is scanned instead"
        )
    offsets = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    rising = bool(np.all(offsets[1:] > offsets[:-1]))
    if not rising or int(offsets[-1]) > tar_bytes or np.any(offsets % 512):
        raise ShardError(f"{name}: damaged: its offsets do not rise in blocks within the tar")
    return offsets
