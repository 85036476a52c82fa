"""shards.index and shards.keys: two small binary files, frozen, and every sample found by them."""

import struct

import numpy as np
import pytest

from shards.errors import ShardError
from shards.index import index_bytes, parse_index
from shards.keys import RECORD, find_key, key_hash, keys_bytes

OFFSETS = [0, 1024, 4096, 2**33]
TAR_BYTES = 2**33 + 1024


def parse(data: bytes, *, samples: int = 3) -> list[int]:
    return parse_index(data, samples=samples, tar_bytes=TAR_BYTES, name="x.tar.idx").tolist()


class Disk:
    """A ``keys.bin`` that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read, self.records = data, 0, len(data) // RECORD.itemsize

    def read_at(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= len(self.data)
        self.read += size
        return self.data[offset : offset + size]

    def find(self, key: str) -> list[tuple[int, int]]:
        return find_key(key, read_at=self.read_at, records=self.records)


# --- .tar.idx


def test_the_index_is_frozen_as_bytes():
    """Little-endian uint64, one a sample and one for the end: Megatron-Energon reads it."""
    assert index_bytes([0, 1024, 4096, 2**33]) == (
        b"\0\0\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\2\0\0\0"
    )


def test_the_index_comes_back():
    assert parse(index_bytes(OFFSETS)) == OFFSETS
    assert parse(index_bytes(np.array(OFFSETS, dtype=np.uint64))) == OFFSETS


def test_lhotses_last_value_is_accepted():
    """Its files of the same name end with the size of the tar."""
    assert parse(struct.pack("<4Q", 0, 1024, 4096, TAR_BYTES))[-1] == TAR_BYTES


def test_an_empty_shard_has_an_index_of_one_value():
    assert parse(index_bytes([0]), samples=0) == [0]


@pytest.mark.parametrize("samples", [0, 2, 4, 1000])
def test_a_wrong_count_is_refused(samples):
    with pytest.raises(ShardError, match=rf"x\.tar\.idx: 32 bytes do not index {samples} samples"):
        parse(index_bytes(OFFSETS), samples=samples)


@pytest.mark.parametrize(
    "offsets",
    [
        [0, 4096, 1024, 8192],
        [0, 1024, 1024, 8192],
        [0, 1000, 4096, 8192],
        [0, 1024, 4096, TAR_BYTES + 512],
        [0, 1024, 4096, 2**64 - 512],
    ],
    ids=["falling", "standing", "between blocks", "past the end", "far past the end"],
)
def test_offsets_that_cannot_be_are_refused(offsets):
    with pytest.raises(ShardError, match=r"x\.tar\.idx: damaged"):
        parse(index_bytes(offsets))


@pytest.mark.parametrize("data", [b"", b"\0" * 31, index_bytes(OFFSETS) + b"\0"])
def test_an_index_cut_short_or_too_long_is_refused(data):
    with pytest.raises(ShardError, match="expected 32"):
        parse(data)


# --- keys.bin


def test_the_hash_of_a_key_is_frozen():
    """BLAKE2b-64, little-endian: indexes on disk rely on it."""
    assert key_hash("piece-000-0") == 13291599078783270651
    assert key_hash("") == 13020603013274838756


def test_keys_are_frozen_as_bytes():
    assert keys_bytes([["b", "a"], ["c"]]).hex(" ", 4) == (
        "373f6364 cd072c1b 01000000 00000000 "
        "40f89e39 5b66422f 00000000 01000000 "
        "8472c2e3 4d854f75 00000000 00000000"
    )


def test_records_are_sorted_by_hash_and_say_where_the_key_lies():
    keys = [[f"key-{shard}-{n}" for n in range(shard * 7)] for shard in range(4)]
    table = np.frombuffer(keys_bytes(keys), dtype=RECORD)
    assert np.all(table["hash"][1:] > table["hash"][:-1])
    assert {(int(h), keys[s][r]) for h, s, r in table} == {
        (key_hash(key), key) for shard in keys for key in shard
    }


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 321, 5000])
def test_every_key_is_found_among_many(count):
    keys = [f"recording-{n}" for n in range(count)]
    half = count // 2
    disk = Disk(keys_bytes([keys[:half], keys[half:]]))
    for number, key in enumerate(keys):
        where = (0, number) if number < half else (1, number - half)
        assert disk.find(key) == [where]


def test_an_absent_key_is_not_found():
    disk = Disk(keys_bytes([[f"key-{n}" for n in range(1000)]]))
    assert [disk.find(f"other-{n}") for n in range(300)] == [[]] * 300
    assert Disk(b"").find("a") == []


def test_finding_a_key_reads_a_page_and_no_more():
    keys = [f"key-{n}" for n in range(100_000)]
    disk = Disk(keys_bytes([keys]))
    for key in keys[::20_000]:
        disk.read = 0
        assert len(disk.find(key)) == 1
        assert disk.read <= 4096 + 8 * 17


@pytest.mark.parametrize("position", [0, 500, 999])
def test_keys_of_one_hash_are_all_found(position):
    """The reader compares the keys themselves; 64 of a hash stand within the last page."""
    table = np.frombuffer(keys_bytes([[f"key-{n}" for n in range(1000)]]), dtype=RECORD).copy()
    wanted = int(table["row"][position])
    twins = np.repeat(table[position : position + 1], 60)
    twins["shard"] = np.arange(1, 61)
    doubled = np.sort(np.concatenate([table, twins]), order=["hash", "shard", "row"])
    found = Disk(doubled.tobytes()).find(f"key-{wanted}")
    assert found == [(shard, wanted) for shard in range(61)]


def test_a_key_that_is_there_twice_is_found_twice():
    assert Disk(keys_bytes([["a", "b"], ["b"]])).find("b") == [(0, 1), (1, 0)]
