"""Signals, forks, threads and errors of the user: no hang, and nothing that stays behind."""

import gc
import json
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import corpus
import faultfs  # noqa: F401 - registers its protocol
import pytest
from web import serve

from loader import make_pipeline, store
from loader.cache import ShardCache

HERE = Path(__file__).parent
SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "batch_size": 10}
# imports once, then streams in a child for each line that it is told; the child is the program
NURSERY = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
import faultfs
from loader import make_pipeline, transfer
for line in sys.stdin:
    if not (child := os.fork()):
        break
    print(child, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
url, cache, mode = line.split()
faultfs.FaultFileSystem.delay_s = 0.005
transfer._FIRST_BYTES = transfer._LEAST_BYTES = transfer.CHUNK_BYTES = 4 << 10
pipe = make_pipeline(url, cache_dir=cache, cache=mode, cache_bytes=10**9, sample_rate=8000,
                     clip_seconds=1.0, batch_size=10, num_workers=2)
while True:
    for batch in pipe:
        pass
"""


def own_files() -> list[str]:
    """What this process holds open; not what Python itself does."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the descriptor that lists them
            continue
    ours = (".tar", ".lock", ".part", ".idx", "room")
    return [path for path in found if path.endswith(ours) or path.startswith("/dev/shm")]


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("loader-")]


def whole(folder: Path, dataset: Path) -> bool:
    tars = [path for path in folder.glob("*/*.tar") if "-decoded-" not in str(path)]
    return all(path.read_bytes() == (dataset / path.name).read_bytes() for path in tars)


@pytest.fixture(scope="module")
def nursery():
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mode", ["raw", "decoded"])
def test_a_signal_at_any_moment_ends_it_and_the_cache_is_good(
    dataset, tmp_path, nursery, number, mode
):
    """First while a shard comes; again and again into one folder, from which is streamed then."""
    dice = random.Random(number)
    for again in range(3):
        print(f"fault://{dataset}", tmp_path, mode, file=nursery.stdin, flush=True)
        child = int(nursery.stdout.readline())
        until = time.monotonic() + 10
        while not again and not list(tmp_path.glob("*/*.part")) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.5) if again else 0.02)
        os.kill(child, number)
        if not select.select([nursery.stdout], [], [], 15)[0]:
            os.kill(child, signal.SIGKILL)  # or the test itself would wait for ever
        assert nursery.stdout.readline() == f"ended {-number}\n"
    assert whole(tmp_path, dataset)
    options = {**SMALL, "cache_dir": tmp_path, "cache": mode, "cache_bytes": 10**9}
    with (
        make_pipeline(dataset, **SMALL) as local,
        make_pipeline(f"fault://{dataset}", **options) as pipe,
    ):
        assert [b["__key__"] for b in pipe] == [b["__key__"] for b in local]
    assert not list(tmp_path.glob("*/.*.draft"))
    left = [path.name.partition(".tar")[0] for path in tmp_path.glob(f"{dataset.name}*/*.part")]
    assert not left


def _stream_in_child(url: str, cache: Path, results) -> None:
    with make_pipeline(url, cache_dir=cache, **SMALL) as pipe:
        results.put([key for batch in pipe for key in batch["__key__"]])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_makes_a_pipeline_of_its_own(dataset, tmp_path, method):
    """While the parent iterates; over HTTP, whose client has threads that a fork loses."""
    context = multiprocessing.get_context(method)
    results = context.Queue()
    with serve(dataset) as web, make_pipeline(web.url, cache_dir=tmp_path, **SMALL) as pipe:
        iterator = iter(pipe)
        mine = list(next(iterator)["__key__"])
        child = context.Process(target=_stream_in_child, args=(web.url, tmp_path / "c", results))
        child.start()
        theirs = results.get(timeout=60)
        child.join(30)
        mine += [key for batch in iterator for key in batch["__key__"]]
    assert child.exitcode == 0
    assert mine == theirs


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_holds_no_lock_of_its_parent_and_takes_none_away(tmp_path):
    """A lock lives as long as any copy of its descriptor, unless it is given back by name."""
    cache, stop = ShardCache(tmp_path, 150), threading.Event()

    def put(name: str):
        def fetch(path: Path) -> None:
            path.write_bytes(bytes(100))

        return cache.acquire(f"d/{name}.tar", fetch, need_bytes=100, stop=stop)[0]

    pin = put("one")
    release, ended = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        pin.release()  # as a finalizer of the child would
        os.write(ended[1], b".")
        os.read(release[0], 1)
        os._exit(0)
    try:
        os.read(ended[0], 1)
        put("two").release()
        assert (tmp_path / "d/one.tar").exists()  # the child took nothing away
        pin.release()
        put("three").release()
        assert not (tmp_path / "d/one.tar").exists()  # though the child lives
    finally:
        os.write(release[1], b".")
        os.waitpid(child, 0)
        for descriptor in (*release, *ended):
            os.close(descriptor)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_in_the_midst_of_a_fetch_keeps_nobody_waiting(tmp_path):
    cache, stop, children = ShardCache(tmp_path, 10**6), threading.Event(), []

    def fetch(path: Path) -> None:
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
        path.write_bytes(bytes(100))

    timer = threading.Timer(5, stop.set)
    timer.start()
    try:
        cache.acquire("d/a.tar", fetch, need_bytes=100, stop=stop)[0].release()
        assert not stop.is_set()
    finally:
        timer.cancel()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.mark.parametrize("cache", ["raw", "decoded", "off"])
def test_two_pipelines_and_many_iterators_leave_nothing_behind(dataset, tmp_path, cache):
    options = {**SMALL, "cache": cache, "cache_dir": tmp_path, "cache_bytes": 10**9}
    with (
        make_pipeline(f"fault://{dataset}", **options) as one,
        make_pipeline(f"fault://{dataset}", **options) as other,
    ):
        for a, b in zip(one, other, strict=True):
            assert a["__key__"] == b["__key__"]
        first, second = iter(one), iter(one)
        next(second)
        with pytest.raises(RuntimeError, match="newer one"):
            next(first)
        next(iter(other))
        assert own_threads()
    gc.collect()
    assert own_threads() == []
    assert own_files() == []
    assert not [p.name for p in tmp_path.rglob("*") if p.name.endswith((".part", ".draft"))]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_users_transform_names_the_sample_and_ends_everything(
    dataset, tmp_path, workers
):
    def transform(sample):
        if sample["__key__"].endswith("23"):
            raise ZeroDivisionError("of the user")
        return sample

    options = {**SMALL, "cache_dir": tmp_path, "num_workers": workers, "transform": transform}
    with make_pipeline(f"fault://{dataset}", **options) as pipe:
        with pytest.raises(ZeroDivisionError, match="of the user") as caught:
            for _ in pipe:
                pass
        assert caught.value.__notes__ == ["in the transform of sample 'audio-0023'"]
        with pytest.raises(StopIteration):
            next(pipe._iterator)
    del caught
    gc.collect()
    assert own_threads() == []
    assert own_files() == []


def test_a_pipeline_that_cannot_be_made_leaves_nothing_open(dataset):
    tars = sorted(str(path) for path in dataset.glob("*.tar"))  # whose fields a sample has to tell
    with pytest.raises(ValueError, match="no label 'lightness'"):
        make_pipeline(tars, **SMALL, dimensions=["lightness"])
    assert own_files() == []


def test_an_error_in_the_users_loop_leaves_nothing_behind(dataset, tmp_path):
    """Without ``with`` or ``close``: the pipeline is forgotten with the loop."""

    def loop() -> None:
        pipe = make_pipeline(f"fault://{dataset}", cache_dir=tmp_path, **SMALL)
        for number, _ in enumerate(pipe):
            if number == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    gc.collect()
    end = time.monotonic() + 10
    while (own_threads() or own_files()) and time.monotonic() < end:
        time.sleep(0.01)
        gc.collect()
    assert own_threads() == []
    assert own_files() == []


def test_a_cache_is_shared_by_processes_that_are_killed_at_random(dataset, tmp_path):
    """The short form of benchmarks/cache_storm.py."""
    script = HERE.parent / "benchmarks" / "cache_storm.py"
    out = tmp_path / "storm.json"
    command = [sys.executable, str(script), "--seconds", "6", "--processes", "4"]
    command += ["--longest-s", "0.6"]  # an epoch of so little takes as long
    command += ["--dataset", str(dataset), "--work", str(tmp_path), "--out", str(out)]
    subprocess.run(command, check=True, timeout=90, stdout=subprocess.DEVNULL)
    found = json.loads(out.read_text())
    assert found["killed"] > 0
    assert found["finished"] > 0
    assert found["wrong_shards"] == found["hangs"] == found["failures"] == 0
    assert found["most_bytes"] <= found["limit_bytes"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_waits_for_no_lock_of_its_parents_pipelines(dataset):
    """Locks that a thread held at the moment of the fork: nobody releases them in the child."""
    with make_pipeline(dataset, **SMALL) as pipe, pipe._store._lock, store._stores_lock:
        child = multiprocessing.get_context("fork").Process(target=store._close_unused_of_all)
        child.start()
        child.join(20)
        waits = child.is_alive()
        child.kill()
        child.join()
    assert not waits
