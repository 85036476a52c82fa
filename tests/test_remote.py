"""cache="off": shards behind a URL are read by range, and nothing is kept."""

import logging

import corpus
import pytest
import soundfile
import torch
from web import serve

from loader import make_pipeline
from loader.remote import RemoteFile
from shards.errors import DataError, FetchError, ShardError
from shards.tar import END_OF_ARCHIVE, sample_bytes

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 8}


def remote(url: str, **options) -> RemoteFile:
    defaults = {"size": None, "storage_options": {}, "pause": lambda s: None, "count": len_of}
    return RemoteFile(url, **{**defaults, **options})


def len_of(count: int) -> None:
    """Counts nothing."""


def test_batches_are_those_of_the_local_shards_and_nothing_is_kept(dataset, tmp_path):
    cache = tmp_path / "cache"
    with (
        serve(dataset) as web,
        make_pipeline(dataset, **SMALL) as local,
        make_pipeline(web.url, cache="off", cache_dir=cache, **SMALL) as far,
    ):
        for _ in range(2):
            for one, other in zip(far, local, strict=True):
                assert one["__key__"] == other["__key__"]
                assert torch.equal(one["audio"], other["audio"])
                assert torch.equal(one["midi"], other["midi"])
        assert far.stats()["fetched_bytes"] > 0
    assert not cache.exists()


def test_a_sample_is_one_request_and_later_only_its_audio(dataset, monkeypatch):
    monkeypatch.setattr("loader.remote._KEPT_BYTES", 150_000)  # a batch
    with serve(dataset) as web:
        options = {**SMALL, "drop_last": False, "shuffle": 0, "num_workers": 0}
        with make_pipeline(web.url, cache="off", **options) as pipe:
            first = sum(float(batch["weight"].sum()) for batch in pipe)
            asked = [p for method, p in web.requests if method == "GET" and p.endswith(".tar")]
            assert len(asked) == first == 50
            fetched = pipe.stats()["fetched_bytes"]
            for _ in pipe:
                pass
            again = pipe.stats()["fetched_bytes"] - fetched
    assert 0 < again < fetched


def test_large_members_that_nobody_asked_for_stay_there(tmp_path):
    sound = tmp_path / "long.wav"
    corpus.write_sound(sound, seconds=200)
    members = {"json": b'{"labels": {"a": 1.5}}', "wav": sound.read_bytes()}
    tar = b"".join(sample_bytes(f"k{i}", members) for i in range(3)) + END_OF_ARCHIVE
    (tmp_path / "a.tar").write_bytes(tar)
    with serve(tmp_path) as web:
        options = {**SMALL, "batch_size": 3, "fields": ("labels",)}
        with make_pipeline(f"{web.url}/a.tar", cache="off", **options) as pipe:
            assert next(iter(pipe))["labels"].flatten().tolist() == [1.5] * 3
            assert pipe.stats()["fetched_bytes"] < len(tar) / 2


def test_a_tar_without_index_is_scanned_by_range(tmp_path):
    sound = tmp_path / "x.flac"
    corpus.write_sound(sound, seconds=1.0)
    folder = tmp_path / "tars"
    folder.mkdir()
    samples = [sample_bytes(f"k{i}", {"flac": sound.read_bytes()}) for i in range(8)]
    (folder / "a.tar").write_bytes(b"".join(samples) + END_OF_ARCHIVE)
    with (
        serve(folder) as web,
        make_pipeline(f"{web.url}/a.tar", cache="off", **SMALL) as pipe,
    ):
        batch = next(iter(pipe))
    expected, _ = soundfile.read(sound, dtype="float32")
    assert torch.equal(batch["audio"][0], torch.from_numpy(expected))


def test_a_server_without_ranges_is_refused_with_the_remedy(dataset):
    with serve(dataset, ranges=False) as web, pytest.raises(FetchError, match='cache="raw"'):
        make_pipeline(web.url, cache="off", **SMALL).__iter__().__next__()


def test_a_shard_that_is_not_there_is_named(dataset, tmp_path):
    (tmp_path / "manifest.json").write_bytes((dataset / "manifest.json").read_bytes())
    with (
        serve(tmp_path) as web,
        make_pipeline(web.url, cache="off", **SMALL) as pipe,
        pytest.raises(DataError, match=r"shard-\d+\.tar: the shard is missing"),
    ):
        next(iter(pipe))


def test_a_file_that_ends_early_is_told_at_once(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(2000))
    with serve(tmp_path) as web:
        file = remote(f"{web.url}/a.tar", size=2000)
        (tmp_path / "a.tar").write_bytes(bytes(1000))
        with pytest.raises(ShardError, match="truncated at byte 1000"):
            file.read_at(500, 1500)
        (tmp_path / "a.tar").unlink()
        with pytest.raises(FetchError, match="not there any more"):
            file.read_at(500, 1500)


def test_another_version_of_a_shard_is_refused_by_its_size(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(1000))
    with serve(tmp_path) as web, pytest.raises(ShardError, match="its manifest says 2000"):
        remote(f"{web.url}/a.tar", size=2000)


@pytest.mark.parametrize("batch_size", [8, 48])
def test_an_epoch_fetches_the_dataset_once(dataset, batch_size):
    size = sum(path.stat().st_size for path in dataset.glob("*.tar"))
    options = {**SMALL, "batch_size": batch_size, "drop_last": False}
    with serve(dataset) as web, make_pipeline(web.url, cache="off", **options) as pipe:
        for _ in pipe:
            pass
        assert pipe.stats()["fetched_bytes"] <= 1.1 * size


def test_audio_that_nobody_asked_for_stays_there(tmp_path):
    dataset = corpus.make_dataset(tmp_path, samples=8, seconds=10.0, midi=False)
    size = sum(path.stat().st_size for path in dataset.glob("*.tar"))
    options = {**SMALL, "fields": ("labels",)}
    with serve(dataset) as web, make_pipeline(web.url, cache="off", **options) as pipe:
        next(iter(pipe))
        assert 0 < pipe.stats()["fetched_bytes"] < size / 2


def test_reads_are_exact_wherever_they_lie(tmp_path):
    data = bytes(range(256)) * 4096
    (tmp_path / "a.bin").write_bytes(data)
    with serve(tmp_path) as web:
        file = remote(f"{web.url}/a.bin")
        assert file.size == len(data)
        file.expect(1000, 5000)
        requests = len(web.requests)
        assert file.read_at(1500, 2000) == data[1500:3500]
        assert len(web.requests) == requests  # it was there already
        for offset, size in ((0, 10), (262_100, 200), (700_000, 400_000), (1_048_570, 100)):
            assert file.read_at(offset, size) == data[offset : offset + size]
        assert file.read_at(len(data), 10) == b""


@pytest.mark.parametrize("cached", [False, True])
def test_verify_hash_finds_a_flipped_bit(dataset, tmp_path, cached, caplog):
    import shutil

    copy, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(dataset, copy)
    options = {**SMALL, "shuffle": 0, "cache_dir": cache, "cache_mount": cached}
    if cached:  # what lies in the cache is damaged, and fetched once more
        with make_pipeline(copy, **options) as pipe:
            for _ in pipe:
                pass
    victim = sorted((cache if cached else copy).rglob("*.tar"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with (
        caplog.at_level(logging.WARNING),
        make_pipeline(copy, verify_hash=True, **options) as pipe,
    ):
        if cached:
            for _ in pipe:
                pass
            assert "SHA-256 differs" in caplog.text
            assert pipe.stats()["fetched_bytes"] == victim.stat().st_size
        else:
            with pytest.raises(ShardError, match="SHA-256 differs"):
                for _ in pipe:
                    pass


def test_verify_hash_is_refused_where_it_cannot_be_kept(dataset, tmp_path):
    with serve(dataset) as web, pytest.raises(ValueError, match='cache="raw"'):
        make_pipeline(web.url, cache="off", verify_hash=True, **SMALL)
    tar = tmp_path / "a.tar"
    tar.write_bytes(sample_bytes("k", {"json": b"{}"}) + END_OF_ARCHIVE)
    with pytest.raises(ValueError, match="no manifest tells its SHA-256"):
        make_pipeline(str(tar), verify_hash=True, **SMALL)
