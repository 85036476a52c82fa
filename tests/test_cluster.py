"""packer --dask: the same bytes from a cluster, whichever of its machines dies."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpus
import pytest

from packer import cluster as clusters
from packer.build import build
from packer.encode import Job, Task
from packer.exchange import Batch, Site, batches, bounded, encode_batch, versions
from packer.journal import BEGUN
from packer.options import Options
from packer.target import Target
from shards.errors import DataError, FetchError

SAMPLES, BROKEN = 80, 7
SHAPE = ["--shard-size", "30KB", "--shuffle-group", "2MB", "--sample-rate", "8000"]
SHAPE += ["--split", "train=0.75,val=0.25", "--max-rejected", "5%"]
OPTIONS = Options(
    sample_rate=corpus.SAMPLE_RATE,
    shard_bytes=30_000,
    group_bytes=2_000_000,
    split={"train": 0.75, "val": 0.25},
)
# what workers load first, more than once: each recording takes a while, and is told of
SLOW = """
import os, time
from packer import exchange
from packer.encode import encode_recording
def slowly(job, spool):
    time.sleep(0.03)
    with open(os.environ["ENCODED"], "a") as file:
        file.write(job.tasks[0].key + chr(10))
    return encode_recording(job, spool)
exchange.encode_recording = slowly
"""
# the command line, but that batches are small
COMMAND = """
import sys
from packer import exchange
from packer.__main__ import main
exchange._JOBS = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Path:
    """Recordings, of which one ends before its header says."""
    path = corpus.write_annotations(tmp_path_factory.mktemp("corpus"), samples=SAMPLES)
    broken = path.parent / "audio" / f"{BROKEN:04d}.wav"
    data = bytearray(broken.read_bytes())
    data[44:] = bytes(len(data) - 44)  # silent, which its header does not tell
    broken.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def straight(annotations, tmp_path_factory) -> dict[str, bytes]:
    """What is made without a cluster."""
    out = tmp_path_factory.mktemp("straight")
    build(annotations, str(out), options=OPTIONS, workers=0, max_rejected=0.05, progress=False)
    found = tree(out)
    assert "rejected.jsonl" in found
    assert sum(name.endswith(".tar") for name in found) >= 20
    return found


class Machines:
    """A scheduler and two workers, each a process."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("distributed")
        self._folder, self._file = folder, folder / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.encoded = folder / "encoded"

    def start(self, preload: str) -> None:
        script = self._folder / "preload_workers.py"
        script.write_text(preload)
        scheduler = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        process = self._start("scheduler", *scheduler, "--scheduler-file", str(self._file))
        wait_for(lambda: self._file.exists() and self._file.stat().st_size > 0, process)
        self.address = json.loads(self._file.read_bytes())["address"]
        alone = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--preload", str(script)]
        self.workers = [
            self._start(
                "worker", self.address, *alone, "--local-directory", str(self._folder / name)
            )
            for name in ("one", "two")
        ]

    def _start(self, *command: str) -> "subprocess.Popen[bytes]":
        with (self._folder / f"{command[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                env=os.environ | {"ENCODED": str(self.encoded)},
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@contextmanager
def machines(folder: Path, *, preload: str = "") -> Iterator[Machines]:
    folder.mkdir(exist_ok=True)
    started = Machines(folder)
    try:
        started.start(preload)
        yield started
    finally:
        started.close()


@contextmanager
def building(annotations: Path, out: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own."""
    command = [sys.executable, "-c", COMMAND, "build", str(annotations), "--out", str(out)]
    with subprocess.Popen([*command, *SHAPE, *more], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def made(process: "subprocess.Popen[str]") -> str:
    """What a command tells that succeeds."""
    _, told = process.communicate()
    assert process.returncode == 0, told
    return told


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    """Until something happened, or the process has ended."""
    while not happened() and process.poll() is None:
        time.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_cluster_leaves_no_trace(annotations, straight, tmp_path):
    two = tmp_path / "two"
    build(annotations, str(two), options=OPTIONS, workers=2, max_rejected=0.05, progress=False)
    assert tree(two) == straight
    with machines(tmp_path / "machines") as cluster:
        with building(annotations, tmp_path / "out", "--dask", cluster.address) as process:
            told = made(process)
        assert "recordings" in told
    assert tree(tmp_path / "out") == straight
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name == "build.spool"]


def test_a_cluster_of_this_machine(annotations, straight, tmp_path):
    pytest.importorskip("distributed")
    with building(annotations, tmp_path / "out", "--dask", "local", "--workers", "2") as process:
        assert "INFO" not in made(process)
    assert tree(tmp_path / "out") == straight


def test_a_worker_that_is_killed_costs_what_it_had_in_hand(annotations, straight, tmp_path):
    with machines(tmp_path / "machines", preload=SLOW) as cluster:
        with building(annotations, tmp_path / "out", "--dask", cluster.address) as process:
            wait_for(lambda: len(lines(cluster.encoded)) >= SAMPLES // 4, process)
            cluster.workers[0].kill()
            made(process)
        assert len(lines(cluster.encoded)) < SAMPLES * 3 // 2
    assert tree(tmp_path / "out") == straight


def test_a_client_that_is_killed_goes_on(annotations, straight, tmp_path):
    """On a cluster, or without one."""
    out = tmp_path / "out"
    with machines(tmp_path / "machines", preload=SLOW) as cluster:
        for enough in (SAMPLES // 4, SAMPLES // 2):
            with building(annotations, out, "--dask", cluster.address) as process:
                wait_for(lambda enough=enough: len(lines(cluster.encoded)) >= enough, process)
                process.kill()
        with building(annotations, out, "--dask", cluster.address) as process:
            made(process)
        assert len(lines(cluster.encoded)) < SAMPLES * 3 // 2
    assert tree(out) == straight


def test_a_cluster_is_left_in_the_middle(annotations, straight, tmp_path):
    out = tmp_path / "out"
    with machines(tmp_path / "machines", preload=SLOW) as cluster:
        with building(annotations, out, "--dask", cluster.address) as process:
            wait_for(lambda: len(lines(cluster.encoded)) >= SAMPLES // 4, process)
            process.kill()
    with building(annotations, out, "--workers", "0") as process:
        made(process)
    assert tree(out) == straight


# --- what is wrong


def test_an_address_where_nothing_answers_is_told(annotations, tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(FetchError, match="no Dask scheduler answers there"):
        build(annotations, str(tmp_path / "out"), dask="nowhere", progress=False)
    assert not (tmp_path / "out").exists()


def test_workers_of_a_running_cluster_are_not_for_the_client_to_say(annotations, tmp_path):
    with pytest.raises(ValueError, match="leave workers out"):
        build(annotations, str(tmp_path), dask="tcp://host:8786", workers=2, progress=False)


def test_without_dask_the_remedy_is_told(annotations, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(FetchError, match=r"pip install '\.\[dask\]'"):
        build(annotations, str(tmp_path / "out"), dask="local", progress=False)


@pytest.fixture
def site(tmp_path) -> Site:
    pytest.importorskip("distributed")
    target = Target(str(tmp_path / "out"))
    target.write(BEGUN, b"{}")
    return Site(target.url, {}, target.sha256(BEGUN), versions())


def job(folder: Path, *, audio: str, seconds: float = 1.0) -> Job:
    task = Task(0, "a", folder / audio, None, 0.0, seconds, whole=True, record={})
    return Job(Path(f"{audio}.blocks"), (task,), "flac", "flac", 8000, 1, False, False)


def test_a_worker_that_sees_other_things_is_told(site, tmp_path):
    missing = Batch("name", (job(tmp_path, audio="missing.wav"),))
    with pytest.raises(FetchError, match=r"missing\.wav: the worker on .* does not find it"):
        encode_batch(site, missing, begun_before=False)
    with pytest.raises(FetchError, match="does not find this build there"):
        replace(site, begun="another").open()
    with pytest.raises(FetchError, match="does not find this build there"):
        replace(site, url=str(tmp_path / "elsewhere")).open()
    with pytest.raises(FetchError, match=r"has soxr .* but this build soxr 0\.1: install the same"):
        replace(site, versions=versions() | {"soxr": "0.1"}).open()


def test_a_recursion_without_end_reaches_the_client():
    """Its own traceback cannot be sent, and Dask's client waits for it for ever."""

    def runaway(depth: int) -> int:
        return runaway(depth + 1) + 1

    with pytest.raises(DataError, match=r"runaway on .*: recursion without an end") as error:
        bounded(runaway)(0)
    assert error.value.__context__ is None
    assert len(error.traceback) < 5


def test_a_cluster_whose_workers_are_all_gone_is_left(annotations, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_LOOK_S", 0.2)
    monkeypatch.setattr(clusters, "_WORKERS_S", 1)
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False
        ) as started,
        distributed.Client(started) as client,
    ):
        cluster = clusters.Cluster(client, "here", {})
        future = client.submit(int, resources={"what no worker has": 1})
        client.retire_workers(list(client.scheduler_info()["workers"]), close_workers=True)
        with pytest.raises(FetchError, match="here: has no workers, waited for 1 s"):
            next(cluster.as_completed([future]))


def test_batches_hold_about_five_minutes(tmp_path):
    jobs = [job(tmp_path, audio=f"{n}.wav", seconds=100.0) for n in range(7)]
    assert [len(batch.jobs) for batch in batches(jobs)] == [3, 3, 1]
    assert [len(batch.jobs) for batch in batches([replace(jobs[0])] * 2)] == [2]
    short = [job(tmp_path, audio=f"{n}.wav", seconds=0.5) for n in range(100)]
    assert [len(batch.jobs) for batch in batches(short)] == [64, 36]
    assert len({batch.name for batch in batches(jobs)}) == 3


def test_packing_does_not_load_dask():
    code = "import sys, packer.__main__, packer.build; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "packer.cluster" in done.stdout.split()
    assert not {"dask", "distributed"} & {name.partition(".")[0] for name in done.stdout.split()}
