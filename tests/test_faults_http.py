"""Web servers that refuse, break off, fall silent and change their files: each is told apart."""

import errno
import itertools
from pathlib import Path

import corpus
import faultfs  # noqa: F401 - registers fault://
import numpy as np
import pytest
import torch
from deadline import in_time
from web import serve

from loader import make_pipeline, transfer
from loader.patience import PATIENCE, retry
from loader.transfer import read_url
from shards.errors import DataError, FetchError
from shards.tar import END_OF_ARCHIVE, sample_bytes

pytest.importorskip("aiohttp")

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 10}


@pytest.fixture(autouse=True)
def _brisk(monkeypatch):
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.001)


def tar(marks: str) -> bytes:
    """A tar of three samples, whose label tells the mark."""
    samples = [
        sample_bytes(f"k{n}", {"json": f'{{"labels": {{"mark": {ord(m)}}}}}'.encode()})
        for n, m in enumerate(marks)
    ]
    return b"".join(samples) + END_OF_ARCHIVE


def marks(url: str, cache: Path) -> str:
    with make_pipeline(url, cache_dir=cache, batch_size=3, shuffle=0, fields=["labels"]) as pipe:
        return "".join(chr(int(value)) for value in next(iter(pipe))["labels"].flatten())


@pytest.mark.parametrize(
    ("status", "message", "requests"),
    [
        (401, "access denied", 1),
        (403, "access denied", 1),
        (410, "No such file", 1),
        (400, "failed: .*400", 1),
        (429, "failed 6 times: .*429", 6),
        (500, "failed 6 times: .*500.*run again", 6),
        (503, "failed 6 times: .*503.*run again", 6),
    ],
)
def test_statuses_are_told_apart(tmp_path, status, message, requests):
    with serve(tmp_path) as web:
        web.status, web.failures = status, 10**6
        with pytest.raises((FetchError, FileNotFoundError), match=message):
            read_url(f"{web.url}/a.json", None)
        assert len(web.requests) == requests


@pytest.mark.parametrize(
    ("told", "waited"), [("7", 7.0), ("Wed, 21 Oct 2065 07:28:00 GMT", 0.001), ("soon", 0.001)]
)
def test_a_server_that_asks_for_time_gets_it(tmp_path, told, waited):
    """A date is none of a length: clocks jump."""
    (tmp_path / "a.json").write_text("{}")
    pauses: list[float] = []
    with serve(tmp_path) as web:
        web.status, web.failures, web.headers = 429, 2, {"Retry-After": told}
        assert read_url(f"{web.url}/a.json", None, pause=lambda s: s and pauses.append(s)) == b"{}"
    assert pauses[0] == waited


def refuse_to_wait(seconds: float) -> None:
    assert not seconds, "was to fail at once"


def test_a_server_that_asks_for_an_hour_is_told_at_once(tmp_path):
    with serve(tmp_path) as web:
        web.status, web.failures, web.headers = 429, 10**6, {"Retry-After": "3600"}
        with pytest.raises(FetchError, match=r"a\.json: failed: .*429.*come again in 3600 s"):
            read_url(f"{web.url}/a.json", None, pause=refuse_to_wait)
        assert len(web.requests) == 1


@pytest.mark.parametrize("status", [429, 500])
def test_a_dataset_comes_whole_through_a_server_that_fails_now_and_then(
    dataset, tmp_path, monkeypatch, status
):
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 20_000)
    with serve(dataset) as web, make_pipeline(dataset, **SMALL) as local:
        count = iter(range(10**6))

        def fail_every_third(path: str) -> None:
            if next(count) % 3 == 0:
                web.failures = 1

        web.status, web.before = status, fail_every_third
        with make_pipeline(web.url, cache_dir=tmp_path, **SMALL) as pipe:
            for one, other in zip(pipe, local, strict=True):
                assert one["__key__"] == other["__key__"]
                assert torch.equal(one["audio"], other["audio"])


@pytest.mark.parametrize("lie", [-1024, -600, 512])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_wrong_length_never_makes_a_whole_tar(tmp_path, lie, ranges):
    """Without a manifest, where nothing but the server tells the size.

    Without ranges, all but the end of the tar comes, which is as long as the server says.
    """
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar("abc"))
    with serve(folder, ranges=ranges) as web:
        web.lie = lie
        with pytest.raises(DataError, match=r"a\.tar.*(truncated|failed 6 times|were announced)"):
            marks(f"{web.url}/a.tar", tmp_path / "cache")
        web.lie = 0
        assert marks(f"{web.url}/a.tar", tmp_path / "cache") == "abc"


@pytest.mark.parametrize("announced", [-512, 512, 2**40])
@pytest.mark.parametrize("source", ["web", "folder"])
def test_what_is_not_as_long_as_announced_is_no_whole_file(tmp_path, announced, source):
    """A tar of its own, with nothing missing at its end: its size alone tells."""
    data = tar("abc")
    (tmp_path / "a.tar").write_bytes(data)
    with serve(tmp_path) as web:
        url = f"{web.url}/a.tar" if source == "web" else str(tmp_path / "a.tar")
        with pytest.raises(FetchError, match=r"a\.tar: \d+ bytes came where \d+ were announced"):
            transfer.transfer(url, tmp_path / "target", size=len(data) + announced)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_tar_that_is_replaced_while_it_comes_is_one_or_the_other(tmp_path, monkeypatch, ranges):
    """Both are of one size, so that only its version tells."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1024)
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar("abc"))
    with serve(folder, ranges=ranges) as web:
        web.tells_version = True
        gets = iter(range(10**6))

        def replace(path: str) -> None:
            if next(gets) == (5 if ranges else 3):
                (folder / "a.tar").write_bytes(tar("xyz"))
                web.cuts, web.cut_after = 1, 700

        web.before = replace
        assert marks(f"{web.url}/a.tar", tmp_path / "cache") == "xyz"


def test_a_tar_that_changes_all_the_time_is_told(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar("abc"))
    with serve(folder) as web:
        web.tells_version = True
        turns = iter(range(10**6))
        web.before = lambda path: (folder / "a.tar").write_bytes(
            tar(3 * chr(97 + next(turns) % 26))
        )
        with pytest.raises(FetchError, match="changed while it was read, twice"):
            marks(f"{web.url}/a.tar", tmp_path / "cache")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_falls_silent_is_asked_again(tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(PATIENCE, "stall_s", 0.2)
    data = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "a.bin").write_bytes(data)
    with serve(tmp_path, ranges=ranges) as web:
        web.silences, web.silence_s = 2, 600.0
        url, target = f"{web.url}/a.bin", tmp_path / "target"
        in_time(lambda: transfer.transfer(url, target, size=len(data)))
    assert (tmp_path / "target").read_bytes() == data


def test_a_file_may_take_longer_than_a_client_gives_one_request(tmp_path, monkeypatch):
    """aiohttp's five minutes for all of a body, however steadily it comes."""
    monkeypatch.setattr(PATIENCE, "stall_s", 5.0)
    fs, _ = transfer.open_url("http://127.0.0.1:1/a.bin", None)
    limits = fs.client_kwargs["timeout"]
    assert (limits.total, limits.sock_read) == (None, 5.0)
    own = {"client_kwargs": {"trust_env": True, "auto_decompress": True}}  # lifts no other limit
    kwargs = transfer.open_url("http://127.0.0.1:1/a.bin", own)[0].client_kwargs
    assert (kwargs["trust_env"], kwargs["auto_decompress"]) == (True, True)
    assert kwargs["timeout"] == limits


def test_of_a_small_file_without_end_no_more_is_taken_than_any_has(tmp_path):
    with serve(tmp_path, ranges=False) as web:
        web.pages["/manifest.json"] = bytes(3 << 20)
        url = f"{web.url}/manifest.json"
        assert len(read_url(url, None)) == 3 << 20
        with pytest.raises(FetchError, match=r"manifest\.json: is larger than the 1 MiB"):
            read_url(url, None, limit_bytes=1 << 20)


def test_of_an_object_no_more_is_asked_for_than_any_small_file_has(tmp_path):
    (tmp_path / "x").write_bytes(bytes(3 << 20))
    assert len(read_url(f"fault://{tmp_path}/x", None)) == 3 << 20
    with pytest.raises(FetchError, match="x: is larger than the 1 MiB"):
        read_url(f"fault://{tmp_path}/x", None, limit_bytes=1 << 20)


def test_a_transfer_that_begins_again_each_time_comes_to_an_end():
    """As with a server that knows no ranges: bytes that came before are no progress."""
    there, pauses = itertools.cycle([0, 100, 0, 50]), []

    def fail() -> None:
        raise OSError(errno.ECONNRESET, "reset")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert len(pauses) < 50

    with pytest.raises(FetchError, match="failed 6 times"):
        retry(fail, "x", pause=pause, progress=lambda: next(there))
