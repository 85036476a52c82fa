"""Full disks, caches that cannot be written or are gone: streaming goes on, packing can go on."""

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import corpus
import pytest
import torch

from loader import make_pipeline
from loader.cache import ShardCache
from loader.disk import writing
from loader.locks import exclusive, locked
from loader.patience import PATIENCE
from packer.__main__ import main as packer
from shards.errors import CacheError

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "batch_size": 10}


class Disk:
    """A small file system in memory."""

    def __init__(self, point: Path) -> None:
        self.point = point

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.point], check=True)

    def make_read_only(self) -> None:
        """By a mount over it: files that are open stay open for writing."""
        for _ in range(100):
            subprocess.run(["mount", "--bind", self.point, self.point], check=True)
            with suppress(subprocess.CalledProcessError):
                return self.remount("bind,ro")
            # a file was opened between the two: what comes is opened below it again
            subprocess.run(["umount", "--lazy", self.point], check=True)
            time.sleep(0.05)
        raise AssertionError("the disk stays busy")


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """Of 256 kB, which is less than the dataset."""
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(point)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a tmpfs cannot be mounted, which needs root: {made.stderr.strip()}")
    try:
        yield Disk(point)
    finally:
        while os.path.ismount(point):
            subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.fixture
def expected(dataset):
    with make_pipeline(dataset, **SMALL) as pipe:
        return [{"keys": b["__key__"], "audio": b["audio"].clone()} for b in pipe]


def check(pipe, expected) -> None:
    for batch, due in zip(pipe, expected, strict=True):
        assert batch["__key__"] == due["keys"]
        assert torch.equal(batch["audio"], due["audio"])


def test_streaming_goes_on_when_the_disk_of_the_cache_is_full(dataset, disk, expected, caplog):
    """And leaves no half of a shard there."""
    options = {**SMALL, "cache_mount": True, "cache_bytes": 10**9, "cache_dir": disk.point / "c"}
    with caplog.at_level(logging.WARNING), make_pipeline(dataset, **options) as pipe:
        check(pipe, expected)
        check(make_pipeline(dataset, **{**SMALL, "seed": 0}), expected)
    assert caplog.text.count("No space left on device") == 1
    assert "shards are read where they lie" in caplog.text
    assert not list(disk.point.rglob("*.part"))
    whole = {path.name: path.stat().st_size for path in disk.point.rglob("*.tar")}
    assert all((dataset / name).stat().st_size == size for name, size in whole.items())


def test_a_cache_that_has_room_again_is_used_again(dataset, disk, expected, monkeypatch):
    monkeypatch.setattr(PATIENCE, "lapse_s", 0.0)
    options = {**SMALL, "cache_mount": True, "cache_bytes": 10**9, "cache_dir": disk.point / "c"}
    with make_pipeline(dataset, **options) as pipe:
        for _ in pipe:
            pass
        disk.remount("size=64m")
        pipe._store._close_unused()  # a reader that stays open needs no cache
        for _ in pipe:
            pass
        assert len(list(disk.point.rglob("*.tar"))) == len(list(dataset.glob("*.tar")))


def test_a_cache_with_room_again_is_used_again_however_often_it_is_asked_meanwhile(
    dataset, disk, monkeypatch
):
    monkeypatch.setattr(PATIENCE, "lapse_s", 0.5)
    options = {**SMALL, "cache_mount": True, "cache_bytes": 10**9, "cache_dir": disk.point / "c"}
    shards, end = len(list(dataset.glob("*.tar"))), time.monotonic() + 20
    with make_pipeline(dataset, **options) as pipe:
        list(pipe)
        disk.remount("size=64m")
        while len(list(disk.point.rglob("*.tar"))) < shards and time.monotonic() < end:
            for number in range(shards):
                with pipe._store.reader(number):
                    pass
            pipe._store._close_unused()
            time.sleep(0.01)
    assert len(list(disk.point.rglob("*.tar"))) == shards


def test_decoding_into_a_full_cache_is_told_and_does_no_harm(dataset, disk, expected, caplog):
    options = {**SMALL, "cache": "decoded", "cache_bytes": 10**9, "cache_dir": disk.point / "c"}
    with caplog.at_level(logging.WARNING), make_pipeline(dataset, **options) as pipe:
        for _ in range(2):
            end = time.monotonic() + 10
            for batch in pipe:
                assert batch["weight"].all()
            while pipe._threads.keeping and time.monotonic() < end:
                time.sleep(0.01)
    assert "is not kept decoded: " in caplog.text
    assert not list(disk.point.rglob("*.part"))


def test_skipped_samples_are_told_where_they_cannot_be_listed(tmp_path, disk, caplog):
    dataset = corpus.make_dataset(tmp_path / "data", samples=4, shard_samples=4, seconds=0.25)
    victim = next(dataset.glob("*.tar"))
    data = bytearray(victim.read_bytes())
    data[data.index(b"fLaC") + 600] ^= 1
    victim.write_bytes(data)
    (disk.point / "full").write_bytes(bytes(256 << 10))
    options = {**SMALL, "batch_size": 4, "clip_seconds": 0.25, "cache_dir": disk.point}
    with caplog.at_level(logging.WARNING):
        with make_pipeline(dataset, on_error="skip", max_error_rate=1.0, **options) as pipe:
            assert next(iter(pipe))["weight"].sum() == 3
    assert "errors.jsonl cannot be written: " in caplog.text
    assert "header declares" in caplog.text


@pytest.mark.parametrize("warm", [True, False])
def test_a_cache_made_read_only_is_read_and_not_written(dataset, disk, expected, caplog, warm):
    disk.remount("size=64m")
    options = {**SMALL, "cache_mount": True, "cache_bytes": 10**9, "cache_dir": disk.point / "c"}
    if warm:
        with make_pipeline(dataset, **options) as pipe:
            check(pipe, expected)
    disk.make_read_only()
    with caplog.at_level(logging.WARNING), make_pipeline(dataset, **options) as pipe:
        check(pipe, expected)
        assert pipe.stats()["cache_hits"] == (len(list(dataset.glob("*.tar"))) if warm else 0)
        assert pipe.stats()["fetched_bytes"] == 0
    assert ("cannot be written" in caplog.text) is not warm


def test_a_cache_made_read_only_meanwhile_is_done_without(dataset, disk, expected):
    disk.remount("size=64m")
    options = {**SMALL, "cache_mount": True, "cache_bytes": 10**9, "cache_dir": disk.point / "c"}
    with make_pipeline(dataset, num_workers=1, prefetch=1, **options) as pipe:
        iterator = iter(pipe)
        found = [next(iterator)["__key__"]]
        disk.make_read_only()
        found += [batch["__key__"] for batch in iterator]
    assert found == [due["keys"] for due in expected]


def test_a_cache_deleted_again_and_again_is_made_anew(dataset, tmp_path, expected):
    """At any moment, while all is read; then it is used as if nothing had been."""
    folder, stop, shards = tmp_path / "cache", threading.Event(), len(list(dataset.glob("*.tar")))

    def delete() -> None:
        while not stop.wait(0.003):
            shutil.rmtree(folder, ignore_errors=True)

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        with make_pipeline(dataset, cache_mount=True, cache_dir=folder, **SMALL) as pipe:
            for _ in range(3):
                pipe.set_epoch(0)
                check(pipe, expected)
                pipe._store._close_unused()
    finally:
        stop.set()
        deleting.join()
    with make_pipeline(dataset, cache_mount=True, cache_dir=folder, **SMALL) as pipe:
        check(pipe, expected)
    assert len(list(folder.glob("*/*.tar"))) == shards
    assert not list(folder.glob("*/*.part"))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_cache_deleted_in_the_midst_of_a_fetch_is_made_anew_twice(tmp_path, times):
    """Or shards would be read where they lie, for as long as a cache is left alone."""
    cache, tried = ShardCache(tmp_path / "cache", 1000), []

    def fetch(path: Path) -> None:
        tried.append(path)
        if len(tried) <= times:
            shutil.rmtree(tmp_path / "cache")
        with writing(path.parent):
            path.write_bytes(b"x")

    def acquire() -> bytes:
        pin, _ = cache.acquire("d/a.tar", fetch, need_bytes=1, stop=threading.Event())
        pin.release()
        return pin.path.read_bytes()

    if times < 3:
        assert acquire() == b"x"
    else:
        with pytest.raises(CacheError, match="cannot be written"):
            acquire()
    assert len(tried) == min(times + 1, 3)


def test_a_lock_that_went_with_its_folder_is_none(tmp_path):
    """Who waited for it would fetch beside somebody who has the lock that is there now."""
    path, stop, has_it, may_go = tmp_path / "d" / "a", *(threading.Event() for _ in range(3))
    path.parent.mkdir()

    def hold() -> None:
        with locked(path, stop):
            has_it.set()
            may_go.wait(20)

    waiting = threading.Thread(target=hold)
    with locked(path, stop):
        waiting.start()
        time.sleep(0.2)
        shutil.rmtree(path.parent)
        path.parent.mkdir()
    try:
        assert has_it.wait(20)
        with exclusive(path) as alone:
            assert not alone
    finally:
        may_go.set()
        waiting.join()


def test_packing_onto_a_full_disk_stops_cleanly_and_goes_on(tmp_path, disk, caplog):
    """With room made, the same command ends with the same bytes."""
    annotations = corpus.write_annotations(tmp_path / "data", samples=60, seconds=2.0, midi=False)
    common = [str(annotations), "--sample-rate", "8000", "--shard-size", "100kB"]
    good, out = tmp_path / "good", disk.point / "out"
    spool = ["--spool", str(tmp_path / "spool")]
    assert packer(["build", *common, "--out", str(good), *spool]) == 0
    assert packer(["build", *common, "--out", str(out), *spool]) == 1
    assert "No space left" in caplog.text or "no room" in caplog.text
    assert not (out / "manifest.json").exists()
    assert not list(out.glob(".*.partial"))
    disk.remount("size=64m")
    assert packer(["build", *common, "--out", str(out), *spool]) == 0
    for path in good.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_encoding_onto_a_full_spool_stops_cleanly_and_goes_on(tmp_path, disk, caplog):
    annotations = corpus.write_annotations(tmp_path / "data", samples=60, seconds=2.0, midi=False)
    out = tmp_path / "out"
    command = ["build", str(annotations), "--sample-rate", "8000", "--out", str(out)]
    command += ["--spool", str(disk.point)]
    assert packer(command) == 1
    assert "make room, or pass --spool" in caplog.text
    assert not list(out.glob("*.tar"))
    disk.remount("size=64m")
    assert packer(command) == 0
    assert packer(["verify", str(out)]) == 0
