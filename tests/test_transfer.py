"""One file, from where it is to the cache: retried, continued, and refused with a remedy."""

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from web import serve

from loader import make_pipeline, transfer
from loader.patience import PATIENCE, retry
from loader.stop import StoppedError
from loader.transfer import read_url
from shards.errors import FetchError

pytest.importorskip("aiohttp")

DATA = np.random.default_rng(0).bytes(3 * transfer.CHUNK_BYTES + 5)
HASH = sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.001)


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "a.tar"


@pytest.fixture
def web(tmp_path):
    (tmp_path / "a.tar").write_bytes(DATA)
    with serve(tmp_path) as server:
        yield server


def no_pause(seconds: float) -> None:
    """0 is no pause, but a look at whether to stop, while a slow answer is waited for."""
    if seconds:
        raise AssertionError("was to fail at once")


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_a_web_server_without_ranges_is_read_from_the_beginning(tmp_path, target, size):
    (tmp_path / "a.tar").write_bytes(DATA)
    transfer.part_path(target, size).write_bytes(DATA[:1000])
    with serve(tmp_path, ranges=False) as server:
        transfer.transfer(f"{server.url}/a.tar", target, size=size, sha256=HASH)
    assert target.read_bytes() == DATA


def test_a_file_of_known_size_is_fetched_without_asking_for_it_first(web, target):
    transfer.transfer(f"{web.url}/a.tar", target, size=len(DATA), sha256=HASH)
    assert {method for method, _ in web.requests} == {"GET"}


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_a_web_server_that_fails_for_a_while_is_asked_again(web, target, size):
    web.failures = 5
    transfer.transfer(f"{web.url}/a.tar", target, size=size)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_a_web_server_that_keeps_failing_is_an_error_with_a_remedy(web, target, size):
    web.failures = 10**6
    with pytest.raises(FetchError, match=r"a\.tar: failed 6 times: .*503.*run again"):
        transfer.transfer(f"{web.url}/a.tar", target, size=size)


def test_a_web_server_that_is_not_there_is_tried_again(tmp_path, target):
    with serve(tmp_path) as server:
        url = f"{server.url}/a.tar"
    pauses: list[float] = []
    with pytest.raises(FetchError, match="failed 6 times"):
        transfer.transfer(url, target, pause=pauses.append)
    assert len(pauses) == PATIENCE.attempts - 1


@pytest.mark.parametrize("size", [None, 5])
def test_what_a_web_server_does_not_have_is_missing_at_once(web, target, size):
    with pytest.raises(FileNotFoundError, match=r"b\.tar"):
        transfer.transfer(f"{web.url}/b.tar", target, size=size, pause=no_pause)
    with pytest.raises(FileNotFoundError):
        read_url(f"{web.url}/b.tar", None, pause=no_pause)


@pytest.mark.parametrize("status", [401, 403])
def test_what_a_web_server_denies_is_denied_at_once(web, target, status):
    web.status, web.failures = status, 10**6
    for size in (None, len(DATA)):
        with pytest.raises(FetchError, match="access denied"):
            transfer.transfer(f"{web.url}/a.tar", target, size=size, pause=no_pause)


def test_a_stop_ends_the_waiting(web, target):
    def stopped(seconds: float) -> None:
        raise StoppedError

    web.failures = 10**6
    with pytest.raises(StoppedError):
        transfer.transfer(f"{web.url}/a.tar", target, pause=stopped)


def test_a_full_disk_is_named_at_once_and_not_the_url(tmp_path, target):
    (tmp_path / "a.tar").write_bytes(DATA)
    transfer.part_path(target, len(DATA)).symlink_to("/dev/full")
    with pytest.raises(FetchError, match=r"cache: .*No space left.*Make room") as caught:
        transfer.transfer(
            str(tmp_path / "a.tar"), target, size=len(DATA), sha256=HASH, pause=no_pause
        )
    assert str(tmp_path / "a.tar") not in str(caught.value)


def test_a_path_through_a_file_and_a_folder_fail_at_once(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FetchError, match=r"file/manifest\.json: is below a file"):
        read_url(f"{file}/manifest.json", None, pause=no_pause)
    with pytest.raises(FetchError, match="is a folder"):
        read_url(str(tmp_path), None, pause=no_pause)
    with pytest.raises(FetchError, match="below a file; name a dataset's folder"):
        make_pipeline(file)


def test_what_comes_is_hashed_as_it_passes(tmp_path, target, monkeypatch):
    """And not read again: that would cost the link the time it takes."""
    (tmp_path / "a.tar").write_bytes(DATA)
    monkeypatch.setattr(transfer.hashlib, "file_digest", None)
    transfer.transfer(str(tmp_path / "a.tar"), target, size=len(DATA), sha256=HASH)
    assert target.read_bytes() == DATA


class SlowFiles(MemoryFileSystem):
    """Files in memory, of which so many bytes come in a second."""

    protocol, cachable = "slow", False
    store: ClassVar[dict] = {}
    rate, asked = 2 << 20, list[int]()

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("slow://").lstrip("/")

    def _open(self, path, mode="rb", **options):
        file = super()._open(path, mode, **options)
        read = file.read
        if mode == "rb":
            file.read1 = lambda size: self._slowly(read(size))
        return file

    def _slowly(self, data: bytes) -> bytes:
        time.sleep(len(data) / self.rate)
        self.asked.append(len(data))
        return data


@pytest.fixture
def slow() -> Iterator[type[SlowFiles]]:
    fsspec.register_implementation("slow", SlowFiles, clobber=True)
    yield SlowFiles
    SlowFiles.store.clear()
    SlowFiles.asked.clear()


def test_of_a_slow_link_so_little_is_asked_that_it_does_not_look_stalled(slow, target, monkeypatch):
    """Others would come beside a shard that a reader waits for, and share the link."""
    monkeypatch.setattr(PATIENCE, "aside_s", 0.5)
    slow().pipe_file("/a.tar", DATA[: 3 << 19])
    came: list[int] = []
    transfer.transfer("slow://a.tar", target, gate=came.append)
    assert target.read_bytes() == DATA[: 3 << 19]
    assert came == [size for size in slow.asked if size]
    assert max(came) <= slow.rate * PATIENCE.aside_s / 2


@pytest.mark.parametrize(
    ("got", "seconds", "then"),
    [
        (512 << 10, 0.0, 1 << 20),
        (4 << 20, 0.1, 4 << 20),
        (1 << 20, 1.0, 2 << 20),
        (1 << 20, 5.0, 1 << 19),
        (1 << 20, 2.5, 1 << 20),
        (1000, 60.0, 64 << 10),
    ],
)
def test_what_is_asked_for_next_comes_in_half_the_time_of_a_stall(got, seconds, then):
    assert transfer.next_bytes(got, seconds) == then


@pytest.mark.parametrize("left", [DATA[:1000], b"x" + DATA[1:1000], DATA, b"x" + DATA[1:]])
def test_a_part_that_was_left_is_continued_or_replaced(tmp_path, target, left):
    (tmp_path / "a.tar").write_bytes(DATA)
    transfer.part_path(target, len(DATA)).write_bytes(left)
    came: list[int] = []
    transfer.transfer(
        str(tmp_path / "a.tar"), target, size=len(DATA), sha256=HASH, gate=came.append
    )
    assert target.read_bytes() == DATA
    again = 0 if left == DATA[: len(left)] else len(DATA)
    assert sum(came) == len(DATA) - len(left) + again


def test_a_file_is_read_again_after_errors_of_a_mount():
    failures = iter([OSError(5, "Input/output error"), EOFError()])

    def read() -> int:
        for error in failures:
            raise error
        return 5

    assert retry(read, "x") == 5
