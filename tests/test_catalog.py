"""loader.catalog: shards by columns are the shards that a list would hold."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from loader import inplace
from loader.catalog import Catalog, Folder
from loader.inplace import read_in_place
from loader.source import Source, take_subset
from shards.manifest import Manifest, ShardInfo, ShardTable, fingerprint


def folder(name: str, *counts: int, local: bool = True, below: str = "") -> Folder:
    infos = [
        ShardInfo(f"{below}{name}-{number}.tar", count, 100 * count or None)
        for number, count in enumerate(counts)
    ]
    table = ShardTable.of(infos)
    return Folder(
        f"{name}-0123",
        f"x://{name}/",
        Path("/data", name) if local else None,
        table,
        fingerprint(table),
        Manifest(name, table),
    )


FOLDERS = [folder("a", 3, 0, 5), folder("none"), folder("b", 2, local=False), folder("c", 4, 1)]
NAMES = ["a-0", "a-1", "a-2", "b-0", "c-0", "c-1"]


def source(*folders: Folder) -> Source:
    return Source("", Catalog.of(folders))


def test_shards_stand_end_to_end():
    shards = Catalog.of(FOLDERS)
    assert [shard.info.url for shard in shards] == [f"{name}.tar" for name in NAMES]
    assert [shard.number for shard in shards] == [0, 1, 2, 0, 0, 1]
    assert [shard.folder for shard in shards] == [f"{name[0]}-0123" for name in NAMES]
    assert [shards.home(number) for number in range(6)] == [shard.home for shard in shards]
    assert shards.rows.tolist() == shards.nsamples.tolist() == [3, 0, 5, 2, 4, 1]
    assert shards.sizes.tolist() == [300, 0, 500, 200, 400, 100]
    assert (shards[3].url, shards[3].local) == ("x://b/b-0.tar", None)
    assert (shards[-1].url, shards[-1].local) == ("x://c/c-1.tar", Path("/data/c/c-1.tar"))
    for number in (6, -7):
        with pytest.raises(IndexError):
            shards[number]


def test_joining_is_laying_all_folders_out():
    parts = [Catalog.of(FOLDERS[:2]), Catalog.of([]), Catalog.of(FOLDERS[2:])]
    joined, whole = Catalog.join(parts), Catalog.of(FOLDERS)
    assert list(joined) == list(whole)
    assert [run for _, run in joined.runs()] == [run for _, run in whole.runs()]


def test_the_fingerprint_is_that_of_all_shards_in_order():
    for folders in (FOLDERS, FOLDERS[:2], FOLDERS[1:2]):
        shards = Catalog.of(folders)
        assert shards.fingerprint == fingerprint([shard.info for shard in shards])
    part = Catalog.of(FOLDERS[:1]).take(np.array([0, 2]), np.array([3, 5]))
    assert part.fingerprint == fingerprint([shard.info for shard in part])


@pytest.mark.parametrize("samples", range(1, 16))
def test_a_subset_is_the_first_samples_by_hash_of_the_name(samples):
    every = source(*FOLDERS)
    left, expected = samples, {}
    for name in sorted(NAMES, key=lambda name: sha256(f"{name}.tar".encode()).digest()):
        if left:
            expected[name] = min(left, int(every.rows[NAMES.index(name)]))
            left -= expected[name]
    part = take_subset(every, samples)
    kept = [name for name in NAMES if name in expected]
    assert [shard.info.url for shard in part.shards] == [f"{name}.tar" for name in kept]
    assert [shard.rows for shard in part.shards] == [expected[name] for name in kept]
    assert {f.name for f in part.shards.used_folders()} == {s.folder for s in part.shards}


def test_each_folder_is_asked_once_whether_it_is_a_disk(monkeypatch):
    asked = []

    def is_local(path: Path) -> bool:
        asked.append(path)
        return path == Path("/data/a")

    monkeypatch.setattr(inplace, "is_local", is_local)
    deep = folder("d", *[1] * 50, below="mounted/")
    shards = Catalog.of([*FOLDERS, deep, FOLDERS[0]])
    assert read_in_place(shards, None).tolist() == [True] * 3 + [False] * 53 + [True] * 3
    assert sorted(asked) == [Path(f"/data/{name}") for name in ("a", "c", "d/mounted", "none")]
    asked.clear()
    assert read_in_place(shards, False).tolist() == [True] * 3 + [False] + [True] * 55
    assert not read_in_place(shards, True).any()
    assert not asked
