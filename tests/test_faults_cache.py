"""Caches that lose files, hold wrong ones or cannot be written: read around, or told."""

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import corpus
import pytest
import torch
from faultfs import FaultFileSystem
from faultmount import mounted
from test_decoded import copies, wait_for_copies
from test_faults_disk import disk  # noqa: F401 - a fixture
from test_foreign import samples, write_tar

from loader import make_pipeline, transfer
from loader.cache import ShardCache
from loader.patience import PATIENCE
from loader.patient import PatientFile
from loader.source import open_source
from loader.stats import Stats
from loader.store import ShardStore
from shards.errors import CacheError
from shards.index import index_bytes
from shards.reader import LocalFile, ShardReader

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "batch_size": 10}


@pytest.fixture(autouse=True)
def _faultless(monkeypatch):
    FaultFileSystem.reset()
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.001)
    yield
    FaultFileSystem.reset()


@pytest.fixture
def expected(dataset):
    return stream(dataset)


def stream(shards: object, **options) -> list[tuple[list[str], torch.Tensor]]:
    with make_pipeline(shards, **SMALL | options) as pipe:
        return [(batch["__key__"], batch["audio"].clone()) for batch in pipe]


def equal(found, expected) -> bool:
    return len(found) == len(expected) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(found, expected, strict=True)
    )


def keep_decoded(dataset: Path, cache: Path) -> None:
    options = {"cache": "decoded", "cache_dir": cache, "cache_bytes": 10**8}
    with make_pipeline(dataset, **SMALL, **options) as pipe:
        list(pipe)
        wait_for_copies(cache, len(list(dataset.glob("*.tar"))))


def test_a_copy_that_goes_between_found_and_opened_is_done_without(
    dataset, tmp_path, expected, monkeypatch
):
    keep_decoded(dataset, tmp_path)
    find = ShardCache.find

    def find_and_lose(self, name, *, stop):
        if (pin := find(self, name, stop=stop)) is not None:
            pin.path.unlink()
        return pin

    monkeypatch.setattr(ShardCache, "find", find_and_lose)
    assert equal(stream(dataset, cache="decoded", cache_dir=tmp_path), expected)


def test_a_damaged_copy_in_a_cache_that_cannot_be_written_is_done_without(
    dataset,
    disk,  # noqa: F811
    expected,
):
    disk.remount("size=64m")
    keep_decoded(dataset, disk.point)
    for copy in copies(disk.point):
        copy.write_bytes(copy.read_bytes()[:5000])
    disk.make_read_only()
    options = {"cache": "decoded", "cache_dir": disk.point, "cache_bytes": 10**8}
    assert equal(stream(dataset, **options), expected)


@pytest.mark.parametrize("warm", [True, False])
def test_a_shard_that_goes_between_fetched_and_opened_is_fetched_anew(
    dataset, tmp_path, expected, monkeypatch, warm
):
    """And the cache is not left alone for it."""
    if warm:
        stream(dataset, cache_mount=True, cache_dir=tmp_path)
    acquire, lost = ShardCache.acquire, set()

    def acquire_and_lose(self, name, *args, **options):
        pin, there = acquire(self, name, *args, **options)
        if name not in lost:
            lost.add(name)
            pin.path.unlink()
        return pin, there

    monkeypatch.setattr(ShardCache, "acquire", acquire_and_lose)
    monkeypatch.setattr(ShardStore, "ensure", lambda self, number: None)  # readers meet it
    with make_pipeline(dataset, cache_mount=True, cache_dir=tmp_path, **SMALL) as pipe:
        found = [(batch["__key__"], batch["audio"].clone()) for batch in pipe]
        assert not pipe._store._lapse.lasts
    assert equal(found, expected)
    assert len(lost) == len(list(dataset.glob("*.tar")))


@pytest.mark.parametrize("mount", [True, False])
@pytest.mark.parametrize("fails", ["when it is opened", "when it is decoded"])
def test_a_wrong_index_that_was_kept_of_a_foreign_tar_is_wrong_once(tmp_path, mount, fails, caplog):
    options = {"cache_dir": tmp_path / "cache", "cache_mount": mount, "batch_size": 4}
    options |= {"clip_seconds": 0.5, "shuffle": 0}
    write_tar(tmp_path / "a.tar", samples(range(4)))
    expected = stream(tmp_path / "a.tar", **options)
    (kept,) = (tmp_path / "cache").glob("*/a.idx")
    with ShardReader(tmp_path / "a.tar") as reader:
        offsets = reader.offsets.tolist()
        if fails == "when it is opened":
            offsets[3:] = [offsets[3] + 1024, reader.size]
        else:
            offsets[1] = reader.members(0)[1].header
    kept.write_bytes(index_bytes(offsets))
    assert equal(stream(tmp_path / "a.tar", **options), expected)
    caplog.clear()
    assert equal(stream(tmp_path / "a.tar", **options), expected)
    assert "index" not in caplog.text


def test_hashes_that_were_asked_for_are_not_left_out_where_no_cache_can_be_made(dataset, tmp_path):
    (tmp_path / "file").touch()
    options = {**SMALL, "cache_dir": tmp_path / "file" / "cache", "cache_bytes": 10**8}
    with pytest.raises(CacheError, match="cannot be written"):
        make_pipeline(f"fault://{dataset}", verify_hash=True, **options)
    make_pipeline(f"fault://{dataset}", **options).close()
    make_pipeline(dataset, cache_mount=True, verify_hash=True, **options).close()


def test_hashes_that_were_asked_for_are_not_left_out_where_the_cache_is_full(
    dataset,
    disk,  # noqa: F811
):
    (disk.point / "full").write_bytes(bytes(200 << 10))
    options = {"cache_dir": disk.point, "cache_bytes": 10**8}
    with pytest.raises(CacheError, match=r"shard-\d+\.tar: verify_hash=True.*No space left"):
        stream(f"fault://{dataset}", verify_hash=True, **options)
    assert len(stream(f"fault://{dataset}", **options)) == 5


def test_a_wrong_index_is_found_out_on_a_mount_whose_reads_fail(
    dataset, tmp_path, expected, monkeypatch
):
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 4096)
    copy = shutil.copytree(dataset, tmp_path / "copy")
    for tar in copy.glob("*.tar"):
        with ShardReader(tar) as reader:
            offsets = reader.offsets.tolist()
            offsets[1] = reader.members(0)[1].header
        tar.with_name(f"{tar.name}.idx").write_bytes(index_bytes(offsets))
    with mounted(copy) as mount:
        mount.set(share=0.1)
        assert equal(stream(mount.point, cache="off"), expected)


def test_the_index_of_a_shard_on_a_disk_is_read_without_a_thread(dataset, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a thread for a file on a disk")

    monkeypatch.setattr("loader.opened.within", refuse)
    assert len(stream(dataset)) == 5


def test_a_shard_whose_file_system_came_back_is_pinned(dataset, tmp_path, monkeypatch):
    """Each attempt takes a pin of its own: the first one's was released when it failed."""
    stream(dataset, cache_mount=True, cache_dir=tmp_path)
    (folder,) = {path.parent for path in tmp_path.glob("*/*.tar")}
    tar = folder / "shard-000000.tar"
    store = ShardStore([open_source(folder)], None, Stats())
    away = tar.rename(tmp_path / "away")

    def come_back(path: Path) -> str:
        if away.exists():
            away.rename(tar)
            return "none"
        return "back"

    monkeypatch.setattr("loader.unmounted.file_system", come_back)
    with store.reader(0) as reader:
        assert len(reader)
        assert store._open[0]._pin._lock >= 0
    store.close()


def test_a_folder_of_somebody_else_in_the_cache_is_passed_over(dataset, tmp_path, monkeypatch):
    """Such as lost+found, where a disk of its own is mounted for the cache."""
    cache, scan = tmp_path / "cache", os.scandir
    (cache / "lost+found").mkdir(parents=True)

    def refuse(path):
        if Path(path).name == "lost+found":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(stream(dataset, cache_mount=True, cache_dir=cache)) == 5
    assert len(list(cache.glob("*/*.tar"))) == len(list(dataset.glob("*.tar")))


def test_a_file_that_opens_too_late_leaves_nothing_open(tmp_path, monkeypatch):
    path, may_go, late = tmp_path / "a", threading.Event(), []
    path.write_bytes(b"content")
    monkeypatch.setattr(PATIENCE, "stall_s", 0.1)
    opened = LocalFile.__init__

    def slow(self, path):
        if not late:
            late.append(threading.current_thread())
            may_go.wait(20)
        opened(self, path)

    monkeypatch.setattr(LocalFile, "__init__", slow)
    file = PatientFile(path, pause=time.sleep, mounted=True)
    before = file.descriptor
    may_go.set()
    late[0].join(20)
    assert file.descriptor == before
    links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert links.count(str(path)) == 1
    assert file.read_at(0, 7) == b"content"
    file.close()
