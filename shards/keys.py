"""``keys.bin``: where the sample of a given key lies, found by bisection."""

from collections.abc import Callable, Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

KEYS = "keys.bin"
RECORD = np.dtype([("hash", "<u8"), ("shard", "<u4"), ("row", "<u4")])
_RECORD_BYTES = RECORD.itemsize


def key_hash(key: str) -> int:
    """BLAKE2b-64 of a key, as it stands in the tar, read as a little-endian integer."""
    name = key.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def keys_bytes(shards: Iterable[Iterable[str]]) -> bytes:
    """``keys.bin`` of a dataset whose shards hold these keys: records sorted by hash."""
    parts = [np.empty(0, RECORD), *(_records(shard, keys) for shard, keys in enumerate(shards))]
    table = np.concatenate(parts)
    return table[np.argsort(table["hash"], kind="stable")].tobytes()


def find_key(
    key: str, *, read_at: Callable[[int, int], bytes], records: int
) -> list[tuple[int, int]]:
    """(shard, row) of every record with the key's hash; a reader then compares the key itself.

    Args:
        read_at: ``read_at(offset, size)`` over ``keys.bin``; some 4 KiB are read in all.
        records: how many records the file has.
    """
    wanted, low, high = key_hash(key), 0, records
    while high - low > 256:
        middle = (low + high) // 2
        found = int.from_bytes(read_at(middle * _RECORD_BYTES, 8), "little")
        # equal hashes stand together, so a few records past the middle stay in range
        low, high = (middle, high) if found < wanted else (low, middle + 64)
    page = np.frombuffer(read_at(low * _RECORD_BYTES, (high - low) * _RECORD_BYTES), dtype=RECORD)
    matches = page[page["hash"] == np.uint64(wanted)]
    return [(int(match["shard"]), int(match["row"])) for match in matches]


def _records(shard: int, keys: Iterable[str]) -> NDArray[np.void]:
    """(N,) of ``RECORD``: the keys of one shard, in stored order."""
    hashes = np.array([key_hash(key) for key in keys], dtype=np.uint64)
    records = np.empty(len(hashes), RECORD)
    records["hash"], records["shard"], records["row"] = hashes, shard, np.arange(len(hashes))
    return records
