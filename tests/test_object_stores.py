"""Datasets behind real servers: S3 as moto serves it, HTTP with ranges, and what may be missing."""

import json
import sys
import threading
import urllib.request
from collections.abc import Callable
from configparser import ConfigParser
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import corpus
import fsspec
import numpy as np
import pytest
from fsspec.registry import _registry, known_implementations
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from web import serve
from werkzeug.serving import make_server

from loader import make_pipeline, transfer
from loader.__main__ import main as loader
from loader.patience import PATIENCE
from loader.transfer import open_url
from packer.__main__ import main as packer
from shards.errors import FetchError

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "batch_size": 10}
DATA = np.random.default_rng(0).bytes(50_000)
HASH = sha256(DATA).hexdigest()


class ObjectStore:
    """An S3 server; ``requests`` lists the (method, path, range) of what it is asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str | None]] = []
        self._answer = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._application, threaded=True, request_handler=MotoRequestHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self._endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.options = {"endpoint_url": self._endpoint, "key": "someone", "secret": "known"}
        self.files = fsspec.filesystem("s3", **self.options)

    def begin(self) -> None:
        """Hold one bucket that is empty, and let everyone in."""
        self._post("reset-auth", "inf")
        self._post("reset")
        self.files.invalidate_cache()
        self.files.mkdir("bucket")
        self.requests.clear()

    def refuse_strangers(self) -> None:
        """From now on only who has a key is answered, and nobody has one."""
        self._post("reset-auth", "0")
        self.requests.clear()

    def asked(self, suffix: str) -> list[tuple[str, str | None]]:
        """Name and range of each read of an object whose name ends so."""
        reads = ((path, asked) for method, path, asked in self.requests if method == "GET")
        return [(path.rpartition("/")[2], asked) for path, asked in reads if path.endswith(suffix)]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _application(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        asked = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE")
        self.requests.append(asked)
        return self._answer(environ, start)

    def _post(self, what: str, data: str = "") -> None:
        url, plain = f"{self._endpoint}/moto-api/{what}", {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, data.encode(), plain)
        with urllib.request.urlopen(request):
            pass


@pytest.fixture(scope="module")
def server():
    with closing(ObjectStore()) as server:
        yield server


@pytest.fixture
def store(server) -> ObjectStore:
    """With an empty ``s3://bucket``."""
    server.begin()
    return server


@pytest.fixture
def bucket(store, dataset) -> ObjectStore:
    """With the dataset in ``s3://bucket/piano``."""
    store.files.put(f"{dataset}/", "bucket/piano/", recursive=True)
    store.requests.clear()
    return store


def keys_of(pipe) -> list[str]:
    return [key for batch in pipe for key in batch["__key__"]]


def test_a_dataset_is_packed_into_a_bucket_as_into_a_folder(store, tmp_path, capsys):
    annotations = str(corpus.write_annotations(tmp_path, samples=12))
    options = ["--workers", "0", "--storage-options", json.dumps(store.options)]
    build = ["build", annotations, "--sample-rate", "8000", "--shard-size", "60000"]
    assert packer([*build, "--out", "s3://bucket/piano", *options]) == 0
    assert packer([*build, "--out", str(tmp_path / "piano"), "--workers", "0"]) == 0
    local = {path.name: path.read_bytes() for path in (tmp_path / "piano").iterdir()}
    remote = {
        path.rpartition("/")[2]: data for path, data in store.files.cat("bucket/piano/*").items()
    }
    assert remote == local
    assert len([name for name in remote if name.endswith(".tar")]) > 1
    capsys.readouterr()
    assert packer([*build, "--out", "s3://bucket/piano", *options]) == 0
    assert packer(["verify", "s3://bucket/piano", *options]) == 0
    said = capsys.readouterr().out
    assert "complete already" in said
    assert "12 samples" in said
    assert "all good" in said


def test_a_bucket_is_read_once_and_not_needed_again(bucket, dataset, tmp_path):
    with (
        make_pipeline(
            "s3://bucket/piano", storage_options=bucket.options, cache_dir=tmp_path, **SMALL
        ) as pipe,
        make_pipeline(dataset, **SMALL) as local,
    ):
        assert keys_of(pipe) == (order := keys_of(local))
        assert len(set(order)) == 50
        tars = sorted(path.name for path in dataset.glob("*.tar"))
        assert sorted(name for name, _ in bucket.asked(".tar")) == tars
        assert pipe[order[0]]["__key__"] == order[0]
        bucket.requests.clear()
        assert keys_of(pipe) == keys_of(local)
        assert not bucket.requests
        stats = pipe.stats()
    assert stats["fetched_bytes"] == sum(path.stat().st_size for path in dataset.glob("*.tar"))


def test_tars_in_a_bucket_are_found_by_a_glob(bucket, dataset, tmp_path):
    for name in ("manifest.json", "keys.bin"):
        bucket.files.rm_file(f"bucket/piano/{name}")
    for url in ("s3://bucket/piano/*.tar", "s3://bucket/piano"):
        with make_pipeline(
            url, storage_options=bucket.options, cache_dir=tmp_path, fields=["midi"], **SMALL
        ) as pipe:
            assert len(set(keys_of(pipe))) == 50


def test_a_bucket_is_staged_and_streamed_without_it(bucket, tmp_path, capsys):
    options = ["--storage-options", json.dumps(bucket.options)]
    assert loader(["stage", "s3://bucket/piano", "--cache-dir", str(tmp_path), *options]) == 0
    folder = capsys.readouterr().out.rpartition("stream them from: ")[2].strip()
    bucket.requests.clear()
    with make_pipeline(folder, **SMALL) as pipe:
        assert len(set(keys_of(pipe))) == 50
    assert not bucket.requests


def test_a_broken_fetch_goes_on_where_it_stopped(store, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 20_000)
    store.files.pipe_file("bucket/a.tar", DATA)
    target, size = tmp_path / "a.tar", len(DATA)
    transfer.part_path(target, size).write_bytes(DATA[:20_000])
    transfer.transfer(
        "s3://bucket/a.tar", target, storage_options=store.options, size=size, sha256=HASH
    )
    assert target.read_bytes() == DATA
    assert [asked for _, asked in store.asked("a.tar")] == [
        "bytes=20000-39999",
        "bytes=40000-59999",
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/nothing", "s3://bucket/nothing: no such dataset folder"),
        ("s3://bocket/piano", "s3://bocket/piano: no such dataset folder"),
        ("s3://bucket/piano/*.tgz", "no shard matches"),
        ("s3://bucket/piano/shard-99.tar", "no such shard"),
    ],
)
def test_what_is_not_in_a_bucket_is_named_after_a_few_requests(bucket, caplog, url, message):
    options = ["--storage-options", json.dumps(bucket.options)]
    assert loader(["stage", url, *options]) == 1
    assert message in caplog.text
    assert len(bucket.requests) < PATIENCE.attempts


def test_a_shard_that_is_gone_is_named(bucket, tmp_path):
    bucket.files.rm_file("bucket/piano/shard-000002.tar")
    with make_pipeline(
        "s3://bucket/piano", storage_options=bucket.options, cache_dir=tmp_path, **SMALL
    ) as pipe:
        with pytest.raises(FetchError, match=r"s3://bucket/piano/shard-000002\.tar"):
            keys_of(pipe)


def test_a_bucket_that_denies_is_asked_once(bucket):
    bucket.refuse_strangers()
    with pytest.raises(FetchError, match=r"s3://bucket/piano/manifest\.json: access denied"):
        make_pipeline("s3://bucket/piano", storage_options=bucket.options)
    assert len(bucket.requests) == 1


def test_a_dataset_behind_a_web_server_comes_in_ranges(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 100_000)
    with serve(dataset) as web:
        with make_pipeline(web.url, cache_dir=tmp_path, **SMALL) as pipe:
            assert len(set(order := keys_of(pipe))) == 50
            assert pipe[order[0]]["__key__"] == order[0]
            assert len(web.asked) > len(list(dataset.glob("*.tar")))
            before = len(web.requests)
            assert len(set(keys_of(pipe))) == 50
            assert len(web.requests) == before


def test_a_cut_connection_costs_only_the_chunk_that_it_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.001)
    (tmp_path / "a.tar").write_bytes(DATA)
    target = tmp_path / "cache.tar"
    with serve(tmp_path) as web:

        def cut_the_next(count: int) -> None:
            if len(web.asked) == 1:
                web.cuts, web.cut_after = 2, 5_000

        transfer.transfer(
            f"{web.url}/a.tar", target, size=len(DATA), sha256=HASH, gate=cut_the_next
        )
    assert target.read_bytes() == DATA
    starts = [int(asked.partition("=")[2].partition("-")[0]) for asked in web.asked]
    assert starts == [0, 20_000, 20_000, 20_000, 40_000]


def test_a_connection_that_is_cut_after_every_chunk_is_taken_up_again_each_time(
    tmp_path, monkeypatch
):
    """More often than it is tried in a row: bytes that came count the attempts anew."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 5_000)
    monkeypatch.setattr(PATIENCE, "first_pause_s", 0.001)
    (tmp_path / "a.tar").write_bytes(DATA)
    target, cuts = tmp_path / "cache.tar", 0
    with serve(tmp_path) as web:

        def cut_the_next(count: int) -> None:
            nonlocal cuts
            web.cuts, web.cut_after, cuts = 1, 100, cuts + 1

        transfer.transfer(
            f"{web.url}/a.tar", target, size=len(DATA), sha256=HASH, gate=cut_the_next
        )
    assert target.read_bytes() == DATA
    assert cuts > PATIENCE.attempts


def test_a_file_that_became_shorter_is_refused(tmp_path):
    """The server answers 416 to what lies behind its end."""
    (tmp_path / "a.tar").write_bytes(DATA[:1000])
    target, size = tmp_path / "cache.tar", len(DATA)
    transfer.part_path(target, size).write_bytes(DATA[:2000])
    with serve(tmp_path) as web:
        with pytest.raises(FetchError, match=r"a\.tar: its content is not .*1000 bytes, 50000 exp"):
            transfer.transfer(f"{web.url}/a.tar", target, size=size, sha256=HASH)
    assert web.asked[0].startswith("bytes=2000-")
    assert not target.exists()


def block(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """Make a protocol's package fail to import, as if it were not installed."""
    module = known_implementations[protocol]["class"].rpartition(".")[0]
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, protocol, raising=False)


@pytest.mark.parametrize(
    ("protocol", "remedy"),
    [
        ("s3", "clavier-data[s3]"),
        ("s3a", "clavier-data[s3]"),
        ("gs", "clavier-data[gcs]"),
        ("gcs", "clavier-data[gcs]"),
        ("hf", "clavier-data[hf]"),
        ("http", "fsspec[http]"),
        ("https", "fsspec[http]"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_pip_line(monkeypatch, protocol, remedy):
    block(monkeypatch, protocol)
    with pytest.raises(FetchError) as caught:
        open_url(f"{protocol}://somewhere/x", None)
    message = str(caught.value)
    assert message.startswith(f"{protocol}://somewhere/x: {protocol}:// needs a package")
    assert message.endswith(f"pip install '{remedy}'")


def test_of_other_protocols_fsspec_tells_the_package(monkeypatch):
    block(monkeypatch, "abfs")
    with pytest.raises(FetchError, match=r"abfs:// needs a package .*: Install adlfs"):
        open_url("abfs://somewhere/x", None)


def test_the_extras_of_the_pip_lines_exist():
    config = ConfigParser()
    config.read(Path(__file__).parent.parent / "setup.cfg")
    assert config["metadata"]["name"] == "clavier-data"
    assert {"s3", "gcs", "hf"} <= set(config["options.extras_require"])
