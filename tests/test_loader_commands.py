"""python -m loader stage fills the cache."""

from pathlib import Path

import corpus
import pytest
from faultfs import FaultFileSystem

from loader import make_pipeline
from loader.__main__ import main
from shards.units import in_words

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "batch_size": 8}


@pytest.fixture(autouse=True)
def _faultless():
    FaultFileSystem.reset()
    yield
    FaultFileSystem.reset()


def test_a_staged_dataset_is_streamed_without_the_source(dataset, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert main(["stage", f"fault://{dataset}", "--cache-dir", str(cache)]) == 0
    folder = Path(capsys.readouterr().out.rpartition("stream them from: ")[2].strip())
    needed = {path.name for path in dataset.iterdir()} - {"README.md"}
    assert needed <= {path.name for path in folder.iterdir()}
    FaultFileSystem.reset()
    with make_pipeline(folder, **SMALL) as copy, make_pipeline(dataset, **SMALL) as source:
        assert [b["__key__"] for b in copy] == [b["__key__"] for b in source]
        key = next(iter(source))["__key__"][0]
        assert copy[key]["__key__"] == key
    with make_pipeline(f"fault://{dataset}", cache_dir=cache, **SMALL) as pipe:
        assert len(list(pipe)) == 6
    assert not FaultFileSystem.opened


def test_staging_again_fetches_nothing(dataset, tmp_path, capsys):
    command = ["stage", f"fault://{dataset}", "--cache-dir", str(tmp_path / "cache")]
    assert main(command) == main(command) == 0
    assert ", of which 0.0 MB were fetched" in capsys.readouterr().out


def test_a_staged_subset_has_the_shards_of_that_subset(dataset, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert main(["stage", f"fault://{dataset}", "--cache-dir", str(cache), "--subset", "12"]) == 0
    told = capsys.readouterr().out.rpartition("stream them with: ")[2].strip()
    (folder,) = {tar.parent for tar in cache.glob("*/*.tar")}
    assert told == f"make_pipeline({str(folder)!r}, subset=12)"
    with make_pipeline(folder, subset=12, **{**SMALL, "batch_size": 4}) as pipe:
        assert len(list(pipe)) == 3
    assert 0 < len(list(cache.glob("*/*.tar"))) < len(list(dataset.glob("*.tar")))
    FaultFileSystem.reset()
    with make_pipeline(
        f"fault://{dataset}", cache_dir=cache, subset=12, **{**SMALL, "batch_size": 4}
    ) as pipe:
        assert len(list(pipe)) == 3
    assert not FaultFileSystem.opened


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cache-bytes", "10"], "make room"),
        (["--subset", "1000"], "subset"),
    ],
)
def test_staging_what_cannot_be_staged_is_refused(dataset, tmp_path, caplog, arguments, message):
    command = ["stage", str(dataset), "--cache-dir", str(tmp_path / "cache"), *arguments]
    assert main(command) == 1
    assert message in caplog.text


def test_a_dataset_that_is_not_there_is_named(tmp_path, caplog):
    assert main(["stage", f"{tmp_path}/nowhere", "--cache-dir", str(tmp_path / "cache")]) == 1
    assert "nowhere" in caplog.text


def test_a_subset_of_tars_without_a_manifest_is_staged(dataset, tmp_path, capsys):
    cache, tars = tmp_path / "cache", f"fault://{dataset}/*.tar"
    assert main(["stage", tars, "--cache-dir", str(cache), "--subset", "12"]) == 0
    assert (
        f"make_pipeline({tars!r}, cache_dir={str(cache)!r}, subset=12)" in capsys.readouterr().out
    )
    FaultFileSystem.reset()
    with make_pipeline(tars, cache_dir=cache, subset=12, **{**SMALL, "batch_size": 4}) as pipe:
        assert len(list(pipe)) == 3
    assert not FaultFileSystem.opened


def test_a_cache_that_is_too_small_is_told_in_its_own_unit(dataset, tmp_path, caplog):
    command = ["stage", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--cache-bytes"]
    assert main([*command, "20KB"]) == 1
    assert "its shards have 0.8 MB, the cache may have 20.0 kB: make room" in caplog.text
    with pytest.raises(SystemExit):
        main([*command, "much"])


@pytest.mark.parametrize(
    ("count", "words"), [(2.06e9, "2.1 GB"), (5e6, "5.0 MB"), (1e8, "0.1 GB"), (20_000, "20.0 kB")]
)
def test_bytes_are_told_in_a_unit_that_shows_them(count, words):
    assert in_words(count) == words
