"""Mounts that fail, hang and go away: no sample wrong, lost or doubled, and no wait without end."""

import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import islice

import corpus
import pytest
import torch
from deadline import in_time
from faultmount import mounted

from loader import make_pipeline, transfer
from loader.patience import PATIENCE
from loader.stop import StoppedError
from shards.errors import FetchError

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "batch_size": 10}


@pytest.fixture(autouse=True)
def _brisk(monkeypatch):
    """Pauses of milliseconds, and chunks so small that many reads can fail."""
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.002)
    monkeypatch.setattr(PATIENCE, "share_bytes", 4096)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 4096)


@pytest.fixture
def mount(dataset):
    with mounted(dataset) as found:
        yield found


def drain(iterator, found: list[dict]) -> None:
    for batch in iterator:
        found.append({"keys": batch["__key__"], "audio": batch["audio"].clone()})


def batches(pipe) -> list[dict]:
    found: list[dict] = []
    drain(pipe, found)
    return found


def wait_for_a_batch(pipe) -> None:
    closed = (StoppedError, InterruptedError, CancelledError, RuntimeError, FetchError)
    with suppress(*closed):
        next(iter(pipe))


def equal(found: list[dict], expected: list[dict]) -> bool:
    return len(found) == len(expected) and all(
        a["keys"] == b["keys"] and torch.equal(a["audio"], b["audio"])
        for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture
def expected(dataset):
    with make_pipeline(dataset, **SMALL) as pipe:
        return batches(pipe)


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("cache", ["raw", "off"])
def test_reads_that_fail_now_and_then_do_not_show(mount, expected, tmp_path, share, cache):
    mount.set(share=share)
    with make_pipeline(mount.point, cache=cache, cache_dir=tmp_path, **SMALL) as pipe:
        assert equal(batches(pipe), expected)
    assert mount.injected > 0


@pytest.mark.parametrize("cache", ["raw", "off"])
def test_a_mount_that_is_away_for_a_while_is_waited_for(mount, tmp_path, monkeypatch, cache):
    """It goes in the midst of a shard: files are opened anew, handles from before stay dead."""
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.1)
    monkeypatch.setattr("loader.pipeline._AHEAD_BYTES", 1)  # or all of it would be there
    options = {**SMALL, "batch_size": 4, "num_workers": 0, "shuffle": 0}
    with make_pipeline(mount.folder, **options) as pipe:
        expected = batches(pipe)
    with make_pipeline(mount.point, cache=cache, cache_dir=tmp_path, **options) as pipe:
        iterator = iter(pipe)
        found: list[dict] = []
        drain(islice(iterator, 1), found)
        mount.vanish()
        back = threading.Timer(0.5, mount.come_back)
        back.start()
        try:
            drain(iterator, found)
        finally:
            back.join()
    assert equal(found, expected)


@pytest.mark.parametrize("cache", ["raw", "off"])
def test_a_mount_that_is_gone_for_good_is_told_in_time_and_training_resumes_exactly(
    mount, expected, tmp_path, monkeypatch, cache
):
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.01)
    monkeypatch.setattr("loader.pipeline._AHEAD_BYTES", 1)  # or all of it would be there
    options = {**SMALL, "cache": cache, "cache_dir": tmp_path, "num_workers": 1, "prefetch": 1}
    found: list[dict] = []
    with make_pipeline(mount.point, **options) as pipe:
        iterator = iter(pipe)
        drain(islice(iterator, 1), found)
        mount.vanish()
        with pytest.raises(FetchError, match=f"{mount.point}.*run again"):
            # pauses of 0.01 * 31 s; the rest is room for a busy machine
            in_time(lambda: drain(iterator, found), seconds=20)
        state = pipe.state_dict()
    assert len(found) < len(expected)
    mount.come_back()
    with make_pipeline(mount.point, **options) as pipe:
        pipe.load_state_dict(state)
        found += batches(pipe)
    assert equal(found, expected)


@pytest.mark.parametrize("cache", ["raw", "off"])
def test_a_read_that_hangs_is_left_behind_and_made_again(
    mount, expected, tmp_path, monkeypatch, cache
):
    monkeypatch.setattr(PATIENCE, "stall_s", 0.2)
    mount.set(stall=("shard-000001.tar",), stalls=1)
    try:
        with make_pipeline(mount.point, cache=cache, cache_dir=tmp_path, **SMALL) as pipe:
            assert equal(in_time(lambda: batches(pipe)), expected)
    finally:
        mount.set()
    assert mount.injected == 1


@pytest.mark.parametrize("stalled", [0, 1])
def test_while_a_shard_hangs_others_come(mount, tmp_path, monkeypatch, stalled):
    """The reader waits for a shard that never comes: the rest is fetched ahead meanwhile.

    One thread decodes one batch, so that nobody else asks for any other shard.
    """
    monkeypatch.setattr(PATIENCE, "stall_s", 600.0)
    monkeypatch.setattr(PATIENCE, "aside_s", 0.1)
    mount.set(stall=(f"shard-{stalled:06d}.tar",), stalls=1)
    others = len(list(mount.folder.glob("*.tar"))) - 1
    options = {**SMALL, "shuffle": 0, "num_workers": 1, "prefetch": 1}
    with make_pipeline(mount.point, cache_dir=tmp_path, **options) as pipe:
        reader = threading.Thread(target=lambda: list(pipe), daemon=True)
        reader.start()
        end = time.monotonic() + 20
        while len(list(tmp_path.glob("*/*.tar"))) < others and time.monotonic() < end:
            time.sleep(0.02)
        came = len(list(tmp_path.glob("*/*.tar")))
        mount.set()
        reader.join(20)
    assert came == others
    assert not reader.is_alive()


@pytest.mark.parametrize("cache", ["raw", "off"])
def test_a_mount_that_hangs_for_good_is_told_and_closing_waits_for_nothing(
    mount, tmp_path, monkeypatch, cache
):
    monkeypatch.setattr(PATIENCE, "stall_s", 0.05)
    mount.set(stall=("shard-000000.tar",), stalls=10**6)
    try:
        with make_pipeline(
            mount.point, cache=cache, cache_dir=tmp_path, shuffle=0, **SMALL
        ) as pipe:
            with pytest.raises(FetchError, match=r"shard-000000\.tar: failed 6 times.*no byte"):
                in_time(lambda: batches(pipe))
            monkeypatch.setattr(PATIENCE, "stall_s", 600.0)
            waiting = threading.Thread(target=wait_for_a_batch, args=(pipe,))
            waiting.start()
            time.sleep(0.2)
            began = time.monotonic()
        waiting.join(10)
        assert not waiting.is_alive()
        assert time.monotonic() - began < 10
    finally:
        mount.set()


def test_closing_does_not_wait_for_a_mount_that_hangs_when_a_file_is_closed(mount, tmp_path):
    pipe = make_pipeline(mount.point, cache="off", cache_dir=tmp_path, shuffle=0, **SMALL)
    list(pipe)
    mount.set(flush=tuple(path.name for path in mount.folder.glob("*.tar")))
    closing = threading.Thread(target=pipe.close, daemon=True)
    try:
        closing.start()
        closing.join(10)
        hangs, end = closing.is_alive(), time.monotonic() + 10
        while not mount.injected and time.monotonic() < end:
            time.sleep(0.01)
        assert mount.injected
    finally:
        mount.set()
    closing.join(10)
    assert not hangs
