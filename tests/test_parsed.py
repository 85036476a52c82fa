"""loader.parsed: a copy of a large manifest is that manifest, or it is not used."""

import json
import logging
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest

from loader import make_pipeline, parsed
from loader.parsed import read_manifest
from loader.source import open_source
from shards.errors import ManifestError
from shards.manifest import LabelStats, Manifest, ShardInfo, dump_manifest, fingerprint

SHARDS = 1001  # one more than are parsed every time


def manifest(shards: int = SHARDS, *, first: int = 3) -> Manifest:
    """With all that a manifest may lack, in folders, and in another script."""
    infos = [
        ShardInfo(
            f"{'' if number % 3 else 'below/'}étude-{number:06d}.tar",
            first if number == 0 else number % 7,
            None if number % 5 == 0 else 2**40 + number,
            None if number % 4 == 0 else f"{number:064x}",
        )
        for number in range(shards)
    ]
    return Manifest(
        "études",
        infos,
        description="many",
        fields={"midi": "mid"},
        labels={"z": LabelStats(5, -1.5, 1.0, 0.1, 0.25), "a": LabelStats(0, 0, 0, 0, 0)},
        options={"split": {"train": 0.8}, "group_by": None, "seed": 2**60},
        duration_s=50.125,
        packer_version="0.1.0",
    )


@pytest.fixture
def url(tmp_path) -> str:
    path = tmp_path / "data" / "manifest.json"
    path.parent.mkdir()
    path.write_bytes(dump_manifest(manifest()))
    return str(path)


@pytest.fixture
def parses(monkeypatch) -> list[str]:
    """The name of each manifest that is parsed."""
    names: list[str] = []
    load = parsed.load_manifest

    def noted(data, *, name):
        names.append(name)
        return load(data, name=name)

    monkeypatch.setattr(parsed, "load_manifest", noted)
    return names


def copies(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.arrays"))


def assert_whole(found: parsed.Parsed, expected: Manifest) -> None:
    assert found.manifest == expected
    assert list(found.manifest.labels) == list(expected.labels)
    assert found.fingerprint == fingerprint(expected.shards)


def test_a_copy_is_the_manifest_and_spares_parsing_it(url, tmp_path, parses):
    for _ in range(3):
        assert_whole(read_manifest(url, None, tmp_path / "cache"), manifest())
    assert parses == [url]
    assert len(copies(tmp_path / "cache")) == 1


def test_a_source_is_the_same_with_and_without_a_copy(url, tmp_path):
    folder = str(Path(url).parent)
    plain, *others = (
        open_source(folder, cache_dir=cache) for cache in (None, tmp_path / "c", tmp_path / "c")
    )
    for other in others:
        assert other.fingerprint == plain.fingerprint
        assert np.array_equal(other.rows, plain.rows)
        assert [list(m.labels) for s in (other, plain) for m in s.manifests] == [["z", "a"]] * 2
        for one, same in zip(plain.shards, other.shards, strict=True):
            assert (one.url, one.local, one.info, one.folder, one.number, one.rows) == (
                *(same.url, same.local, same.info, same.folder, same.number, same.rows),
            )


def damage(copy: Path, how: str) -> None:
    data = bytearray(copy.read_bytes())
    if how == "empty":
        data.clear()
    elif how == "truncated":
        del data[len(data) // 2 :]
    elif how == "one byte less":
        del data[-1]
    elif how == "longer":
        data += b"x"
    else:
        data[int(float(how) * len(data))] ^= 1
    copy.write_bytes(data)


@pytest.mark.parametrize(
    "how", ["empty", "truncated", "one byte less", "longer", "0", "0.1", "0.5", "0.999"]
)
def test_a_damaged_copy_is_made_anew(url, tmp_path, parses, caplog, how):
    caplog.set_level(logging.INFO)
    cache = tmp_path / "cache"
    read_manifest(url, None, cache)
    (copy,) = copies(cache)
    good = copy.read_bytes()
    damage(copy, how)
    assert_whole(read_manifest(url, None, cache), manifest())
    assert len(parses) == 2
    assert "damaged" in caplog.text
    assert copy.read_bytes() == good


def test_a_copy_of_another_format_is_made_anew(url, tmp_path, parses, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(parsed, "_FORMAT_VERSION", parsed._FORMAT_VERSION + 1)
        read_manifest(url, None, tmp_path / "cache")
    for _ in range(2):
        assert_whole(read_manifest(url, None, tmp_path / "cache"), manifest())
    assert len(parses) == 2


@pytest.mark.parametrize("by_rename", [True, False])
def test_another_manifest_of_the_same_size_and_time_is_noticed(url, tmp_path, by_rename):
    """As a copy that keeps times makes it."""
    path, cache = Path(url), tmp_path / "cache"
    read_manifest(url, None, cache)
    before, data = path.stat(), dump_manifest(manifest(first=4))
    target = path.with_name("new") if by_rename else path
    target.write_bytes(data)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    target.rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert_whole(read_manifest(url, None, cache), manifest(first=4))
    assert len(copies(cache)) == 1


def test_where_no_version_is_known_the_content_tells(tmp_path, parses):
    memory = fsspec.filesystem("memory")
    path = f"/{tmp_path.name}/manifest.json"
    url = f"memory:/{path}"
    for first, times in ((3, 1), (4, 2)):
        memory.pipe_file(path, dump_manifest(manifest(first=first)))
        for _ in range(2):
            assert_whole(read_manifest(url, None, tmp_path), manifest(first=first))
        assert len(parses) == times
    memory.rm(path)


def test_small_manifests_leave_nothing_behind(url, tmp_path):
    Path(url).write_bytes(dump_manifest(manifest(SHARDS - 1)))
    read_manifest(url, None, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_pipeline_keeps_a_copy_unless_the_cache_is_off(url, tmp_path, parses):
    options = {"cache_dir": tmp_path / "cache"}
    with make_pipeline(url, cache="off", **options) as pipe:
        off = pipe.state_dict()
    assert not (tmp_path / "cache").exists()
    for _ in range(2):
        with make_pipeline(url, **options) as pipe:
            assert pipe.state_dict() == off
    assert len(parses) == 2
    assert len(copies(tmp_path / "cache")) == 1


def test_where_no_copy_can_be_kept_the_manifest_is_parsed(url, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    assert_whole(read_manifest(url, None, tmp_path / "file"), manifest())
    assert "cannot be written" in caplog.text
    monkeypatch.setattr(parsed, "is_local", lambda path: False)
    assert_whole(read_manifest(url, None, tmp_path / "mount"), manifest())
    assert "no local disk" in caplog.text
    assert not (tmp_path / "mount").exists()
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_what_is_refused_is_refused_every_time(url, tmp_path):
    document = json.loads(dump_manifest(manifest()))
    document["shardlist"][-1]["url"] = "../astray.tar"
    Path(url).write_text(json.dumps(document))
    for _ in range(2):
        with pytest.raises(ManifestError, match="outside the dataset's folder"):
            read_manifest(url, None, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
