"""The shard cache: fetched once, whole or absent, within its limit, ahead of the reader."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import corpus
import pytest
import torch
from faultfs import FaultFileSystem

from loader import make_pipeline, transfer
from loader.ahead import ReadAhead
from loader.cache import ShardCache, default_folder
from loader.disk import measure, write_whole
from loader.fetch import Fetcher
from loader.mixture import Mixture
from loader.order import Order
from loader.patience import PATIENCE
from loader.source import open_source
from loader.stats import Stats
from loader.stop import StoppedError
from loader.store import ShardStore
from shards.errors import DataError, FetchError
from shards.mounts import file_system, is_local

GB = 10**9
RATE = corpus.SAMPLE_RATE
SMALL = {"sample_rate": RATE, "clip_seconds": 1.0, "batch_size": 8, "num_workers": 2}


@pytest.fixture(autouse=True)
def _faultless(monkeypatch):
    FaultFileSystem.reset()
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.001)
    yield
    FaultFileSystem.reset()


def remote(dataset: Path) -> str:
    return f"fault://{dataset}"


def keys_of(pipe) -> list[str]:
    return [key for batch in pipe for key in batch["__key__"] if key]


def tars(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/*.tar")}


def test_a_remote_dataset_is_the_local_one(dataset, tmp_path):
    with (
        make_pipeline(dataset, **SMALL) as local,
        make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL) as pipe,
    ):
        for one, other in zip(local, pipe, strict=True):
            assert one["__key__"] == other["__key__"]
            assert torch.equal(one["audio"], other["audio"])
        stats = pipe.stats()
    shards = list(dataset.glob("*.tar"))
    assert stats["fetched_bytes"] == sum(shard.stat().st_size for shard in shards)
    assert tars(tmp_path / "cache") == {shard.name for shard in shards}


def test_each_shard_is_fetched_once_over_all_epochs(dataset, tmp_path):
    with make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        for _ in range(3):
            keys_of(pipe)
    assert set(FaultFileSystem.opened.values()) == {1}


def test_two_processes_fetch_each_shard_once(dataset, tmp_path):
    """Started together on an empty cache; each reports what it fetched itself."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[3]); import faultfs\n"
        "from loader import make_pipeline\n"
        "faultfs.FaultFileSystem.delay_s = 0.02\n"
        f"pipe = make_pipeline(sys.argv[1], cache_dir=sys.argv[2], sample_rate={RATE}, "
        "clip_seconds=1.0, batch_size=8)\n"
        "count = sum(len(b['__key__']) for b in pipe)\n"
        "print(json.dumps([count, pipe.stats()['fetched_bytes']])); pipe.close()"
    )
    command = [sys.executable, "-c", code, remote(dataset), str(tmp_path / "cache")]
    command.append(str(Path(__file__).parent))
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    results = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [count for count, _ in results] == [48, 48]
    size = sum(shard.stat().st_size for shard in dataset.glob("*.tar"))
    assert sum(fetched for _, fetched in results) == size


def test_the_cache_keeps_to_its_limit(tmp_path):
    """Ten shards through room for six, in the order of use, with all samples delivered."""
    dataset = corpus.make_dataset(tmp_path, samples=30, shard_samples=3, midi=False)
    size = max(shard.stat().st_size for shard in dataset.glob("*.tar"))
    options = {**SMALL, "cache_dir": tmp_path / "cache", "cache_bytes": 6 * size, "shuffle": 0}
    with make_pipeline(remote(dataset), **options, drop_last=False) as pipe:
        assert len(keys_of(pipe)) == 30
    kept = [path.stat().st_size for path in (tmp_path / "cache").glob("*/*.tar")]
    assert 0 < sum(kept) <= 6 * size


@pytest.mark.parametrize(
    ("free", "limit"), [(100 * GB, 50 * GB), (30 * GB, 10 * GB), (20 * GB, 1), (GB, 1)]
)
def test_without_a_limit_a_tenth_of_the_disk_stays_free(tmp_path, monkeypatch, caplog, free, limit):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(200 * GB, 200 * GB - free, free))
    assert ShardCache(tmp_path, None).limit_bytes == limit
    assert ("nothing is cached" in caplog.text) == (limit == 1)


def test_a_file_in_use_is_not_evicted(tmp_path):
    cache, stop = ShardCache(tmp_path, 250), threading.Event()

    def put(name: str):
        def fetch(path: Path) -> None:
            path.write_bytes(bytes(100))

        return cache.acquire(f"d/{name}.tar", fetch, need_bytes=100, stop=stop)[0]

    used, idle = put("used"), put("idle")
    idle.release()
    put("third").release()
    assert tars(tmp_path) == {"used.tar", "third.tar"}
    put("fourth").release()
    assert tars(tmp_path) == {"used.tar", "fourth.tar"}
    used.release()
    put("fifth").release()
    put("sixth").release()
    assert "used.tar" not in tars(tmp_path)


def test_a_broken_transfer_goes_on_where_it_stopped(dataset, tmp_path):
    shard = dataset / "shard-000000.tar"
    FaultFileSystem.break_after[shard.name] = 1000
    with make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        assert len(keys_of(pipe)) == 48
    assert FaultFileSystem.reads[shard.name] == shard.stat().st_size
    assert FaultFileSystem.opened[shard.name] == 2


def test_a_part_that_a_killed_process_left_is_continued_or_replaced(dataset, tmp_path):
    cache = tmp_path / "cache"
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        expected = keys_of(pipe)
    shards = sorted(cache.glob("*/*.tar"))
    good, bad = shards[0].read_bytes(), shards[1].read_bytes()
    transfer.part_path(shards[0], len(good)).write_bytes(good[:5000])
    transfer.part_path(shards[1], len(bad)).write_bytes(b"junk" + bad[4:5000])
    for shard in shards[:2]:
        shard.unlink()
    FaultFileSystem.reset()
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        assert keys_of(pipe) == expected
    assert FaultFileSystem.reads[shards[0].name] == len(good) - 5000
    assert FaultFileSystem.reads[shards[1].name] == len(bad) - 5000 + len(bad)
    assert shards[0].read_bytes() == good
    assert shards[1].read_bytes() == bad


def test_a_flipped_bit_on_the_way_is_found_and_fetched_again(dataset, tmp_path):
    FaultFileSystem.spoil.add("shard-000001.tar")
    with make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        assert len(keys_of(pipe)) == 48
    assert FaultFileSystem.opened["shard-000001.tar"] == 2


def test_wrong_content_at_the_source_is_an_error_that_names_it(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = copy / "shard-000000.tar"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    with make_pipeline(remote(copy), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        with pytest.raises(FetchError, match=r"shard-000000\.tar.*packer verify"):
            keys_of(pipe)
    assert "shard-000000.tar" not in tars(tmp_path / "cache")


def test_a_source_that_stays_away_is_an_error_that_names_it(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "shard-000000.tar").unlink()
    with make_pipeline(remote(copy), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        with pytest.raises(FetchError, match=r"fault:.*/shard-000000\.tar.*manifest names it"):
            keys_of(pipe)


def test_pointing_at_the_cache_folder_works(dataset, tmp_path):
    cache = tmp_path / "cache"
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        expected, state = keys_of(pipe), pipe.state_dict()
    (folder,) = {path.parent for path in cache.glob("*/*.tar")}
    FaultFileSystem.reset()
    with make_pipeline(folder, **SMALL) as pipe:
        assert keys_of(pipe) == expected
        pipe.load_state_dict(state)
    assert not FaultFileSystem.opened


def test_the_first_batch_needs_one_shard(tmp_path):
    """The shard that the reader waits for is fetched before any other."""
    dataset = corpus.make_dataset(tmp_path, samples=40, shard_samples=5, midi=False)
    with make_pipeline(
        remote(dataset), cache_dir=tmp_path / "c", **{**SMALL, "batch_size": 4}, prefetch=1
    ) as pipe:
        first = next(iter(pipe))
        assert len(first["__key__"]) == 4
    assert len(set(FaultFileSystem.log)) <= 8


def test_local_paths_are_read_in_place_and_mounts_through_the_cache(dataset, tmp_path):
    cache = tmp_path / "cache"
    with make_pipeline(dataset, cache_dir=cache, **SMALL) as pipe:
        keys_of(pipe)
    assert not cache.exists()
    with make_pipeline(dataset, cache_dir=cache, cache_mount=True, **SMALL) as pipe:
        keys_of(pipe)
    assert tars(cache)


def test_cache_off_reads_everything_where_it_lies(dataset, tmp_path):
    for url in (dataset, remote(dataset)):
        options = {"cache": "off", "cache_mount": True, "cache_dir": tmp_path / "cache"}
        with make_pipeline(url, **options, **SMALL) as pipe:
            assert len(keys_of(pipe)) == 48
    assert not (tmp_path / "cache").exists()


def test_a_truncated_shard_read_in_place_is_an_error(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    os.truncate(copy / "shard-000002.tar", 4096)
    with make_pipeline(copy, **SMALL) as pipe:
        with pytest.raises(DataError, match=r"shard-000002\.tar.*4096 bytes"):
            keys_of(pipe)


def test_locks_end_with_the_process_that_held_them(tmp_path):
    """A killed process blocks nobody: its locks are the kernel's."""
    cache = ShardCache(tmp_path, 1000)
    (tmp_path / "d").mkdir()
    code = (
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    lock = str(tmp_path / "d/.a.tar.lock")
    holder = subprocess.Popen(
        [sys.executable, "-c", code, lock], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        descriptor = os.open(lock, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(descriptor)
        holder.kill()
        pin, hit = cache.acquire(
            "d/a.tar", lambda path: path.touch(), need_bytes=0, stop=threading.Event()
        )
    assert not hit
    pin.release()


MOUNTINFO = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:35 / /content/drive rw,nosuid - fuse.drive drive rw
41 22 0:36 / /mnt/with\\040space rw - nfs4 server:/x rw
42 40 0:37 / /content/drive/local rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("/home/me", "ext4", True),
        ("/content/drive/MyDrive/shards", "fuse.drive", False),
        ("/content/driveway", "ext4", True),
        ("/mnt/with space/x", "nfs4", False),
        ("/content/drive/local/x", "tmpfs", True),
    ],
)
def test_mounts_are_told_from_disks(tmp_path, path, kind, local):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTINFO)
    assert file_system(Path(path), mountinfo=mountinfo) == kind
    assert is_local(Path(path), mountinfo=mountinfo) is local


def test_an_unknown_file_system_is_no_disk(tmp_path):
    assert not is_local(Path("/"), mountinfo=tmp_path / "missing")


def test_the_cache_folder_is_found_as_the_contract_says(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    assert default_folder({"SHARD_CACHE_DIR": "/a", "SLURM_TMPDIR": "/b"}) == Path("/a")
    assert default_folder({"SLURM_TMPDIR": "/b", **home}) == Path("/b/shard-cache")
    assert default_folder({"COLAB_RELEASE_TAG": "1", **home}) == Path("/content/shard-cache")
    assert default_folder(home) == tmp_path / "shard-cache"


def test_a_file_that_another_fetched_and_uses_is_shared_not_waited_for(tmp_path, monkeypatch):
    """Two miss it, one is first to fetch it and keeps it open: the other gets it all the same."""
    from loader import cache as module

    cache, stop, pins = ShardCache(tmp_path, 1000), threading.Event(), []
    exclusive = module.exclusive

    def other_is_first(path):
        if path.name == "a.tar.fetch" and not pins:
            monkeypatch.setattr(module, "exclusive", exclusive)
            pins.append(get()[0])
        return exclusive(path)

    def get():
        return cache.acquire("d/a.tar", lambda path: path.touch(), need_bytes=0, stop=stop)

    monkeypatch.setattr(module, "exclusive", other_is_first)
    results: list = []
    second = threading.Thread(target=lambda: results.append(get()), daemon=True)
    second.start()
    second.join(10)
    stop.set()
    assert [hit for _, hit in results] == [True]
    for pin in (pins[0], results[0][0]):
        pin.release()


def test_who_waits_for_a_file_looks_soon_and_then_more_seldom(tmp_path, monkeypatch):
    """Through a small cache a shard may be fetched, read and evicted before the next look."""
    from loader import cache as module

    pauses: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return False

    monkeypatch.setattr(module, "exclusive", lambda path: nullcontext(len(pauses) > 8))
    cache = ShardCache(tmp_path, 1000)
    cache.acquire("d/a.tar", lambda path: path.touch(), need_bytes=0, stop=Stop())[0].release()
    assert pauses[0] < 0.01
    assert pauses == sorted(pauses)
    assert pauses[-1] == module.POLL_S


def test_what_is_discarded_while_it_is_read_comes_anew(tmp_path):
    """One process has it open, as long as it likes: the other does not wait for that."""
    stop, asked = threading.Event(), threading.Event()
    one, other = ShardCache(tmp_path, 1000), ShardCache(tmp_path, 1000)

    def get(cache: ShardCache):
        return cache.acquire("d/a.tar", lambda path: path.touch(), need_bytes=0, stop=stop)

    def get_and_tell() -> None:
        with suppress(InterruptedError):
            found.append(get(other))
        asked.set()

    found: list = []
    pin, _ = get(one)
    other.discard("d/a.tar")
    threading.Thread(target=get_and_tell, daemon=True).start()
    there = asked.wait(10)
    pin.release()  # or a thread without end would stay
    stop.set()
    assert there
    assert [hit for _, hit in found] == [False]
    found[0][0].release()


def test_a_wait_for_what_another_fetches_can_be_stopped(tmp_path):
    """And a part that comes is not evicted meanwhile."""
    stop, coming, may_end = threading.Event(), threading.Event(), threading.Event()
    cache = ShardCache(tmp_path, 250)

    def slow(path: Path) -> None:
        coming.set()
        may_end.wait(20)
        transfer.part_path(path, 200).rename(path)

    def fetch() -> None:
        cache.acquire("d/a.tar", slow, need_bytes=200, stop=threading.Event())[0].release()

    fetching = threading.Thread(target=fetch)
    fetching.start()
    assert coming.wait(10)
    try:
        cache.acquire("d/b.tar", lambda path: path.touch(), need_bytes=200, stop=stop)[0].release()
        assert list(tmp_path.glob("d/a.tar.*.part"))
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(InterruptedError):
            cache.acquire("d/a.tar", slow, need_bytes=200, stop=stop)
    finally:
        may_end.set()
        fetching.join()
    assert (tmp_path / "d/a.tar").exists()


def test_hits_are_shards_that_were_there_before(dataset, tmp_path):
    shards = len(list(dataset.glob("*.tar")))
    for hits in (0, shards):
        with make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL) as pipe:
            for _ in range(2):
                keys_of(pipe)
            assert pipe.stats()["cache_hits"] == hits


def test_a_shard_that_is_opened_as_soon_as_it_is_there_is_no_hit(dataset, tmp_path, monkeypatch):
    """By a reader, while who fetched it still keeps its index."""
    keep = Fetcher._keep_index
    store = ShardStore([open_source(remote(dataset))], ShardCache(tmp_path), stats := Stats())

    def read_first(self, number, path):
        with store.reader(number):
            keep(self, number, path)

    monkeypatch.setattr(Fetcher, "_keep_index", read_first)
    store.ensure(0)
    store.close()
    assert stats.snapshot()["cache_hits"] == 0


def test_an_index_is_made_of_its_tar_and_not_fetched(dataset, tmp_path):
    """A slow mount takes longer to give it."""
    with make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        keys_of(pipe)
    assert not [name for name in FaultFileSystem.asked if name.endswith(".idx")]
    made = {path.name: path.read_bytes() for path in (tmp_path / "cache").glob("*/*.idx")}
    assert made == {path.name: path.read_bytes() for path in dataset.glob("*.idx")}


def test_a_torn_index_in_the_cache_is_done_without(dataset, tmp_path):
    cache = tmp_path / "cache"
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        expected = keys_of(pipe)
    torn = sorted(cache.glob("*/*.idx"))[0]
    torn.write_bytes(torn.read_bytes()[:12])
    FaultFileSystem.reset()
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        assert keys_of(pipe) == expected
    assert not FaultFileSystem.opened


def test_a_shard_damaged_in_the_cache_is_fetched_once_more(dataset, tmp_path):
    cache = tmp_path / "cache"
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        expected = keys_of(pipe)
    damaged = sorted(cache.glob("*/*.tar"))[0]
    good = damaged.read_bytes()
    os.truncate(damaged, 1000)
    FaultFileSystem.reset()
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        assert keys_of(pipe) == expected
    assert FaultFileSystem.opened == {damaged.name: 1}
    assert damaged.read_bytes() == good


def test_reading_ahead_stays_within_its_horizon(tmp_path):
    """Ten samples ahead of position 0 lie in the first three shards of five."""
    dataset = corpus.make_dataset(tmp_path, samples=60, shard_samples=5, midi=False)
    source = open_source(remote(dataset))
    store = ShardStore([source], ShardCache(tmp_path / "cache"), Stats())
    rows = source.rows
    mixture = Mixture([Order(rows, shuffle=0)])
    ahead = ReadAhead(store, mixture, epoch=0, start=0, stream=None, horizon=10)
    due = int((rows.cumsum() - rows <= 10).sum())
    deadline = time.monotonic() + 20
    while len(tars(tmp_path / "cache")) < due and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # time enough for the others, if it went on
    ahead.stop()
    store.close()
    ahead.join(10)
    assert len(tars(tmp_path / "cache")) == due < len(rows)


def test_an_epoch_through_a_small_cache_fetches_each_shard_once(tmp_path):
    """What was read leaves before what is yet to be read."""
    dataset = corpus.make_dataset(tmp_path, samples=120, shard_samples=5, midi=False)
    sizes = [shard.stat().st_size for shard in dataset.glob("*.tar")]
    options = {**SMALL, "batch_size": 4, "prefetch": 1, "num_workers": 1, "shuffle": 5}
    with make_pipeline(
        remote(dataset), cache_dir=tmp_path / "cache", cache_bytes=6 * max(sizes), **options
    ) as pipe:
        for _ in pipe:
            time.sleep(0.005)
        assert pipe.stats()["fetched_bytes"] <= 1.1 * sum(sizes)


def test_closing_waits_for_no_attempt(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(PATIENCE, "first_pause_s", 60)
    FaultFileSystem.broken.update(shard.name for shard in dataset.glob("*.tar"))
    pipe = make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL)
    with ThreadPoolExecutor(1) as reader:
        batch = reader.submit(lambda: next(iter(pipe)))
        while not FaultFileSystem.opened:
            time.sleep(0.01)
        began = time.monotonic()
        pipe.close()
        assert batch.exception(timeout=5) is not None
    assert time.monotonic() - began < 5


def test_a_dataset_read_in_the_cache_is_not_evicted_by_another(dataset, tmp_path):
    cache, stop = tmp_path / "cache", threading.Event()
    with make_pipeline(remote(dataset), cache_dir=cache, **SMALL) as pipe:
        keys_of(pipe)
    staged = tars(cache)
    (folder,) = {path.parent for path in cache.glob("*/*.tar")}

    def crowd(name: str) -> None:
        other = ShardCache(cache, 1000)
        other.acquire(name, lambda path: path.touch(), need_bytes=900, stop=stop)[0].release()

    with make_pipeline(folder, **SMALL) as pipe:
        keys_of(pipe)
        crowd("other/one.tar")
        assert staged <= tars(cache)
    crowd("other/two.tar")
    assert not staged & tars(cache)


def test_full_shuffling_of_what_has_to_be_fetched_is_warned_of(dataset, tmp_path, caplog):
    options = {**SMALL, "cache_dir": tmp_path / "cache", "shuffle": "full"}
    with make_pipeline(dataset, **options):
        assert not caplog.text
    with make_pipeline(remote(dataset), **options):
        assert 'shuffle="full"' in caplog.text


def test_a_key_is_found_after_errors_of_the_network(dataset, tmp_path):
    with make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        key = next(iter(pipe))["__key__"][0]
        FaultFileSystem.failing["keys.bin"] = 3
        assert pipe[key]["__key__"] == key


def test_closing_ends_the_wait_of_a_look_up(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(PATIENCE, "first_pause_s", 600.0)
    FaultFileSystem.failing["keys.bin"] = 10**6
    pipe, ended = make_pipeline(remote(dataset), cache_dir=tmp_path / "cache", **SMALL), []

    def look_up() -> None:
        with pytest.raises(StoppedError):
            pipe["any"]
        ended.append(True)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    while thread.is_alive() and "keys.bin" not in FaultFileSystem.asked:
        time.sleep(0.01)
    pipe.close()
    thread.join(30)
    assert ended


def test_a_disk_is_measured_and_small_files_are_whole(tmp_path):
    rate = measure(tmp_path)
    assert min(rate.write, rate.read) > 0
    write_whole(tmp_path / "d" / "x", b"1")
    write_whole(tmp_path / "d" / "x", b"2")
    assert [path.read_bytes() for path in (tmp_path / "d").iterdir()] == [b"2"]
