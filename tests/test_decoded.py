"""cache="decoded": the same batches out of int16 shards that the cache keeps."""

import io
import json
import os
import time
from collections import Counter
from pathlib import Path

import corpus
import numpy as np
import pytest
import torch
from faultfs import FaultFileSystem

from loader import decoded, make_pipeline
from loader.decoded import decode_members, decoded_bytes
from loader.disk import DiskRate
from loader.patience import PATIENCE
from loader.source import open_source, take_subset
from loader.store import ShardStore
from shards.errors import CacheError
from shards.reader import ShardReader

RATE = corpus.SAMPLE_RATE
SMALL = {"sample_rate": RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 8}


@pytest.fixture(autouse=True)
def _faultless():
    FaultFileSystem.reset()
    yield
    FaultFileSystem.reset()


def copies(cache: Path) -> list[Path]:
    return sorted(cache.glob("*-decoded-*/*.tar"))


def wait_for_copies(cache: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(copies(cache)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(copies(cache)) == count


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if torch.is_tensor(value):
            assert torch.equal(value.nan_to_num(-9), other[name].nan_to_num(-9)), name
        else:
            assert value == other[name], name


@pytest.mark.parametrize("crop", ["start", "random"])
@pytest.mark.parametrize("midi", ["octuple", "notes"])
def test_batches_are_the_same_to_the_bit(dataset, tmp_path, crop, midi):
    seconds = 1.0 if crop == "start" else 0.5
    options = {**SMALL, "clip_seconds": seconds, "crop": crop, "midi": midi}
    cache = tmp_path / "cache"
    with (
        make_pipeline(dataset, **options) as raw,
        make_pipeline(dataset, cache="decoded", cache_dir=cache, **options) as pipe,
    ):
        for epoch in range(2):
            for one, other in zip(pipe, raw, strict=True):
                assert_same(one, other)
            if epoch == 0:
                wait_for_copies(cache, len(list(dataset.glob("*.tar"))))
        open_now = {Path(entry.reader.name) for entry in pipe._store._open.values()}
    assert open_now <= set(copies(cache))
    assert open_now


def test_a_second_run_needs_neither_source_nor_flac(dataset, tmp_path):
    cache, url = tmp_path / "cache", f"fault://{dataset}"
    with make_pipeline(url, cache="decoded", cache_dir=cache, **SMALL) as pipe:
        expected = [batch["__key__"] for batch in pipe]
        wait_for_copies(cache, len(list(dataset.glob("*.tar"))))
    for raw in set(cache.glob("*/*.tar")) - set(copies(cache)):
        raw.unlink()
    FaultFileSystem.reset()
    with make_pipeline(url, cache="decoded", cache_dir=cache, **SMALL) as pipe:
        assert [batch["__key__"] for batch in pipe] == expected
    assert not FaultFileSystem.opened


def test_decoded_shards_are_webdataset_tars_of_int16_and_notes(dataset, tmp_path):
    cache = tmp_path / "cache"
    with make_pipeline(dataset, cache="decoded", cache_dir=cache, **SMALL) as pipe:
        list(pipe)
        wait_for_copies(cache, len(list(dataset.glob("*.tar"))))
    with ShardReader(copies(cache)[0]) as reader, ShardReader(dataset / "shard-000000.tar") as raw:
        assert len(reader) == len(raw)
        members, source = reader.read(0), raw.read(0)
    assert set(members) == {"audio.npy", "json", "mid", "notes.npy"}
    audio = np.load(io.BytesIO(members["audio.npy"]))
    assert (audio.dtype, audio.shape) == (np.int16, (RATE,))
    notes = np.load(io.BytesIO(members["notes.npy"]))
    assert (notes.dtype, notes.shape[1]) == (np.float32, 6)
    assert json.loads(members["json"]) == json.loads(source["json"])


def test_another_rate_has_copies_of_its_own(dataset, tmp_path):
    cache, shards = tmp_path / "cache", len(list(dataset.glob("*.tar")))
    for number, rate in enumerate((RATE, RATE // 2), start=1):
        options = {**SMALL, "sample_rate": rate}
        with make_pipeline(dataset, cache="decoded", cache_dir=cache, **options) as pipe:
            assert {batch["audio"].shape[1] for batch in pipe} == {rate}
            wait_for_copies(cache, number * shards)


def test_what_does_not_decode_stays_and_is_named_as_before():
    members = {"flac": b"junk", "json": b"{}", "mid": b"junk too", "cls": b"1"}
    assert decode_members(members, sample_rate=RATE) == members


def test_copies_larger_than_memory_on_a_slow_disk_are_not_made(
    dataset, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(decoded, "free_memory", lambda: 1000)
    monkeypatch.setattr(decoded, "measure", lambda folder: DiskRate(write=50e6, read=50e6))
    cache = tmp_path / "cache"
    with make_pipeline(dataset, cache="decoded", cache_dir=cache, **SMALL) as pipe:
        assert len(list(pipe)) == 6
    assert not copies(cache)
    assert "50 MB/s" in caplog.text


def test_copies_that_the_cache_has_no_room_for_are_not_made(dataset, tmp_path, caplog):
    """They would drive out the shards and each other: every epoch would fetch everything."""
    cache, shards = tmp_path / "cache", list(dataset.glob("*.tar"))
    raw = sum(shard.stat().st_size for shard in shards)
    options = {**SMALL, "cache_dir": cache, "cache_bytes": raw + 1000, "cache": "decoded"}
    with make_pipeline(f"fault://{dataset}", **options) as pipe:
        for _ in range(2):
            list(pipe)
        assert pipe.stats()["fetched_bytes"] == raw
        assert not pipe._store.keeps_decoded
    assert "raise cache_bytes" in caplog.text
    size = decoded_bytes(open_source(dataset), RATE)
    with make_pipeline(dataset, **{**options, "cache_bytes": size}) as pipe:
        assert pipe._store.keeps_decoded  # shards read in place take no room


def test_the_size_of_copies_follows_the_subset_and_is_estimated_for_tars(dataset):
    source = open_source(dataset)
    seconds = sum(manifest.duration_s for manifest in source.manifests)
    assert decoded_bytes(source, RATE) == round(2 * RATE * seconds)
    part = take_subset(source, 10)
    assert decoded_bytes(part, RATE) < decoded_bytes(source, RATE) / 2
    tars = open_source(f"{dataset}/*.tar")
    size = sum(shard.stat().st_size for shard in dataset.glob("*.tar"))
    assert decoded_bytes(tars, 24000) == 4 * size


def test_a_damaged_copy_is_made_anew(dataset, tmp_path):
    cache, shards = tmp_path / "cache", len(list(dataset.glob("*.tar")))
    with make_pipeline(dataset, cache="decoded", cache_dir=cache, **SMALL) as pipe:
        expected = [batch["__key__"] for batch in pipe]
        wait_for_copies(cache, shards)
    damaged = copies(cache)[0]
    good = damaged.read_bytes()
    os.truncate(damaged, len(good) // 2)
    copies(cache)[1].with_name(copies(cache)[1].name + ".idx").write_bytes(b"torn")
    with make_pipeline(dataset, cache="decoded", cache_dir=cache, **SMALL) as pipe:
        assert [batch["__key__"] for batch in pipe] == expected
        wait_for_copies(cache, shards)
    assert damaged.read_bytes() == good


def test_copies_that_were_there_are_hits_and_those_made_now_are_not(dataset, tmp_path):
    cache, shards = tmp_path / "cache", len(list(dataset.glob("*.tar")))
    for hits in (0, shards):
        with make_pipeline(dataset, cache="decoded", cache_dir=cache, **SMALL) as pipe:
            for _ in range(2):
                list(pipe)
                wait_for_copies(cache, shards)
            assert pipe.stats()["cache_hits"] == hits


def test_a_shard_that_cannot_be_kept_is_told_of_once(dataset, tmp_path, caplog):
    import os
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = copy / "shard-000001.tar"
    with ShardReader(shard) as reader:
        header = reader.members(2)[0].header
    with shard.open("r+b") as file:
        os.pwrite(file.fileno(), b"junk", header)
    options = {**SMALL, "on_error": "skip", "max_error_rate": 0.5, "cache_dir": tmp_path / "cache"}
    with make_pipeline(copy, cache="decoded", **options) as pipe:
        for _ in range(2):
            list(pipe)
        wait_for_copies(tmp_path / "cache", len(list(copy.glob("*.tar"))) - 1)
        time.sleep(0.3)
    told = [record for record in caplog.records if "not kept decoded" in record.message]
    assert len(told) == 1


def test_what_did_not_decode_is_not_played_at_another_speed(tmp_path):
    """Raw samples of another rate, too few of them, stay undecodable in the cache's copy."""
    from shards.npy import npy_bytes
    from shards.tar import END_OF_ARCHIVE, sample_bytes

    good = npy_bytes(np.zeros(16000, np.int16))
    short = npy_bytes(np.zeros(9600, np.int16))
    told = json.dumps({"sample_rate": 16000, "frames": 16000}).encode()
    members = [{"audio.npy": short if n == 1 else good, "json": told} for n in range(4)]
    tar = tmp_path / "a.tar"
    samples = [sample_bytes(f"k{n}", each) for n, each in enumerate(members)]
    tar.write_bytes(b"".join(samples) + END_OF_ARCHIVE)
    options = {"sample_rate": 8000, "clip_seconds": 1.0, "batch_size": 4, "shuffle": 0}
    options |= {"on_error": "skip", "max_error_rate": 1.0}
    cache = tmp_path / "cache"
    with make_pipeline(str(tar), cache="decoded", cache_dir=cache, **options) as pipe:
        for _ in range(3):
            assert next(iter(pipe))["weight"].tolist() == [1, 0, 1, 1]
            wait_for_copies(cache, 1)


def test_shards_are_closed_and_opened_again_while_others_read(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("loader.store._OPEN_SHARDS", 1)
    options = {**SMALL, "num_workers": 6, "drop_last": False}
    with (
        make_pipeline(dataset, cache="decoded", cache_dir=tmp_path / "cache", **options) as pipe,
        make_pipeline(dataset, **{**options, "num_workers": 0}) as plain,
    ):
        for _ in range(4):
            for one, other in zip(pipe, plain, strict=True):
                assert_same(one, other)


def test_damage_that_does_not_show_gets_no_digest_of_its_own(dataset, tmp_path):
    """Labels of a cached shard: it is compared with its hash before a copy of it is made."""
    options = {**SMALL, "cache_mount": True, "cache_dir": tmp_path}

    def labels(**more) -> list[torch.Tensor]:
        with make_pipeline(dataset, **options, **more) as pipe:
            found = [batch["labels"].nan_to_num(-9) for batch in pipe]
            if more:
                wait_for_copies(tmp_path, len(list(dataset.glob("*.tar"))))
        return found

    expected = labels()
    for shard in tmp_path.glob("*/*.tar"):
        data = bytearray(shard.read_bytes())
        at = data.index(b'"labels"')
        digit = next(n for n in range(at, len(data)) if chr(data[n]).isdigit())
        data[digit] ^= 1
        shard.write_bytes(data)
    labels(cache="decoded")
    assert all(map(torch.equal, labels(cache="decoded"), expected))


def test_a_full_cache_is_tried_again(dataset, tmp_path, monkeypatch):
    keep, tried = ShardStore.keep_decoded, Counter()

    def full_at_first(self, number, make, *, need_bytes):
        tried[number] += 1
        if tried[number] == 1:
            raise CacheError("No space left on device")
        keep(self, number, make, need_bytes=need_bytes)

    monkeypatch.setattr(ShardStore, "keep_decoded", full_at_first)
    monkeypatch.setattr(PATIENCE, "lapse_s", 0.0)
    count, deadline = len(list(dataset.glob("*.tar"))), time.monotonic() + 30
    with make_pipeline(dataset, cache="decoded", cache_dir=tmp_path, **SMALL) as pipe:
        while len(copies(tmp_path)) < count and time.monotonic() < deadline:
            list(pipe)
            pipe._store._close_unused()
    assert len(copies(tmp_path)) == count
