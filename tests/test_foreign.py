"""Shards that somebody else wrote: no manifest, no index, their own habits."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import corpus
import numpy as np
import pytest
import soundfile
import torch
from faultfs import FaultFileSystem

from loader import make_pipeline
from shards import reader
from shards.errors import DataError, DecodeError, FetchError, ManifestError, ShardError

RATE = corpus.SAMPLE_RATE
SMALL = {"sample_rate": RATE, "clip_seconds": 0.5, "max_notes": 4, "batch_size": 4}


def flac(number: int, seconds: float = 0.5) -> bytes:
    target, rng = io.BytesIO(), np.random.default_rng(number)
    sound = 0.1 * rng.standard_normal(round(seconds * RATE))
    soundfile.write(target, sound, RATE, format="FLAC")
    return target.getvalue()


def write_tar(path: Path, members: dict[str, bytes], *, form: int = tarfile.USTAR_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def samples(numbers: range, *, folder: str = "") -> dict[str, bytes]:
    members = {}
    for number in numbers:
        key = f"{folder}{number:03d}"
        members[f"{key}.flac"] = flac(number)
        members[f"{key}.json"] = json.dumps({"labels": {"rank": number}}).encode()
    return members


def keys_of(pipe) -> list[str]:
    return [key for batch in pipe for key in batch["__key__"] if key]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three tars of four samples each, in a folder without a manifest."""
    for shard in range(3):
        numbers = range(4 * shard, 4 * shard + 4)
        write_tar(tmp_path / "wds" / f"part-{shard:02d}.tar", samples(numbers))
    return tmp_path / "wds"


@pytest.mark.parametrize("url", ["", "/*.tar", "/part-{00..02}.tar", "/part-0[0-2].tar"])
def test_tars_are_found_by_folder_glob_and_braces(folder, url):
    with make_pipeline(f"{folder}{url}", shuffle=0, **SMALL) as pipe:
        assert keys_of(pipe) == [f"{number:03d}" for number in range(12)]
        batch = next(iter(pipe))
        assert batch["labels"].flatten().tolist() == [0, 1, 2, 3]
        assert set(batch) == {"audio", "audio_frames", "labels", "weight", "__key__"}


def test_they_are_shuffled_resumed_and_found_by_key(folder):
    with make_pipeline(str(folder), **SMALL) as pipe:
        batches = iter(pipe)
        next(batches)
        state, rest = pipe.state_dict(), keys_of(batches)
        pipe.load_state_dict(state)
        assert keys_of(pipe) == rest
        pipe.set_epoch(0)
        batch = next(iter(pipe))
        assert torch.equal(pipe[batch["__key__"][1]]["audio"], batch["audio"][1])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_unicode_names_are_keys(tmp_path, form):
    long = "Études/" + "opus 10 no. ".replace(".", "") * 12
    write_tar(tmp_path / "a.tar", samples(range(4), folder=long), form=form)
    with make_pipeline(f"{tmp_path}/a.tar", shuffle=0, **SMALL) as pipe:
        assert keys_of(pipe) == [f"{long}{number:03d}" for number in range(4)]


def test_a_dot_in_front_and_dots_behind_are_understood(tmp_path):
    members = {"./x/": b"", "./x/0.a.flac": flac(0), "./x/0.flac": flac(1), "./x/._0.flac": b"junk"}
    del members["./x/"]
    write_tar(tmp_path / "a.tar", members)
    with make_pipeline(f"{tmp_path}/a.tar", **{**SMALL, "batch_size": 1}) as pipe:
        batch = next(iter(pipe))
    assert batch["__key__"] == ["x/0"]
    assert np.allclose(batch["audio"][0].numpy(), soundfile.read(io.BytesIO(flac(1)))[0], atol=1e-6)


def test_members_apart_are_refused(tmp_path):
    members = samples(range(2))
    apart = dict(sorted(members.items(), key=lambda item: item[0].endswith("json")))
    write_tar(tmp_path / "a.tar", apart)
    with pytest.raises(ShardError, match=r"a\.tar.*'000' lie apart"):
        make_pipeline(f"{tmp_path}/a.tar", **SMALL)


def test_shards_of_webdataset_are_read(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(f"{tmp_path}/s-%06d.tar", maxcount=3, verbose=0) as writer:
        for number in range(6):
            writer.write({"__key__": f"{number:03d}", "flac": flac(number), "cls": number})
    with make_pipeline(f"{tmp_path}/s-{{000000..000001}}.tar", shuffle=0, **SMALL) as pipe:
        batch = next(iter(pipe))
    for row in range(4):
        expected, _ = soundfile.read(io.BytesIO(flac(row)), dtype="float32")
        assert np.array_equal(batch["audio"][row].numpy(), expected)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("missing.tar", FetchError),
        ("missing-*.tar", FetchError),
        ("missing-{00..01}.tar", FetchError),
        ("", ManifestError),
    ],
)
def test_what_is_not_there_is_named(tmp_path, url, error):
    with pytest.raises(error, match=url.partition("-")[0] or tmp_path.name):
        make_pipeline(f"{tmp_path}/{url}", **SMALL)


@pytest.mark.parametrize("url", ["pipe:cat x.tar", "nosuch://x/a.tar"])
def test_protocols_that_would_run_something_are_unknown(url):
    with pytest.raises(DataError, match="x"):
        make_pipeline(url if url.endswith(".tar") else f"{url}.tar", **SMALL)


def wav(value: float) -> bytes:
    target = io.BytesIO()
    soundfile.write(target, np.full(RATE // 2, value, dtype=np.float32), RATE, format="WAV")
    return target.getvalue()


def peak(url: str, **options) -> float:
    with make_pipeline(url, cache_mount=True, **{**SMALL, "batch_size": 1}, **options) as pipe:
        return round(float(next(iter(pipe))["audio"].max()), 2)


def test_a_tar_rewritten_at_the_same_size_is_another_one(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, {"0.wav": wav(0.25)})
    size = path.stat().st_size
    assert peak(str(path)) == 0.25
    write_tar(path, {"0.wav": wav(0.75)})
    os.utime(path, (1, 1))
    assert path.stat().st_size == size
    assert peak(str(path)) == 0.75


def test_a_relative_name_is_another_tar_in_another_folder(tmp_path, monkeypatch):
    for folder, value in (("x", 0.25), ("y", 0.75)):
        write_tar(tmp_path / folder / "a.tar", {"0.wav": wav(value)})
        os.utime(tmp_path / folder / "a.tar", (1, 1))
        monkeypatch.chdir(tmp_path / folder)
        assert peak("a.tar") == value


def test_however_tars_are_named_they_share_the_cache(folder, tmp_path):
    urls = ["", "/*.tar", "/part-{00..02}.tar"]
    several = [f"{folder}/part-{number:02d}.tar" for number in (2, 1, 0)]
    cache = tmp_path / "cache"
    for shards in [*(f"{folder}{url}" for url in urls), several]:
        with make_pipeline(shards, cache_dir=cache, cache_mount=True, **SMALL) as pipe:
            assert len(keys_of(pipe)) == 12
    assert len(list(cache.glob("*/*.tar"))) == 3


@pytest.fixture
def scanned(monkeypatch) -> list[int]:
    """One entry for each tar that is scanned."""
    scans: list[int] = []
    scan = reader.scan

    def noted(read_at):
        scans.append(1)
        return scan(read_at)

    monkeypatch.setattr(reader, "scan", noted)
    return scans


@pytest.mark.parametrize("mount", [False, True])
def test_tars_are_scanned_on_first_contact_only(folder, tmp_path, scanned, mount):
    options = {**SMALL, "cache_dir": tmp_path / "cache", "cache_mount": mount, "shuffle": 0}
    expected = [f"{number:03d}" for number in range(12)]
    with make_pipeline(str(folder), **options) as pipe:
        assert keys_of(pipe) == expected
    assert len(scanned) == 3
    scanned.clear()
    with make_pipeline(f"{folder}/*.tar", **options) as pipe:
        assert keys_of(pipe) == expected
        assert pipe["007"]["__key__"] == "007"
    assert not scanned


def indexes_of_keys(cache: Path) -> list[Path]:
    return sorted((cache / "keys").glob("*"))


@pytest.mark.parametrize("mount", [False, True])
def test_keys_are_indexed_when_first_asked(folder, tmp_path, monkeypatch, mount):
    """From then on a look-up opens the tar that has the key, and no other."""
    opened: list[str] = []
    init = reader.ShardReader.__init__

    def noted(self, path, **options):
        opened.append(path.name.rpartition("/")[2])
        init(self, path, **options)

    options = {**SMALL, "cache_dir": tmp_path / "cache", "cache_mount": mount}
    with make_pipeline(str(folder), **options) as pipe:
        assert not indexes_of_keys(tmp_path / "cache")
        assert pipe["009"]["__key__"] == "009"
    (index,) = indexes_of_keys(tmp_path / "cache")
    monkeypatch.setattr(reader.ShardReader, "__init__", noted)
    with make_pipeline(f"{folder}/*.tar", **options) as pipe:
        opened.clear()  # one was opened to see what is in the samples
        assert pipe["011"]["labels"].tolist() == [11]
        with pytest.raises(KeyError, match="nothing"):
            pipe["nothing"]
    assert opened == ["part-02.tar"]
    assert indexes_of_keys(tmp_path / "cache") == [index]


def test_a_subset_and_a_changed_tar_have_an_index_of_their_own(folder, tmp_path):
    options = {**SMALL, "cache_dir": tmp_path / "cache"}
    with make_pipeline(str(folder), **options) as pipe:
        assert pipe["011"]["__key__"] == "011"
    with make_pipeline(str(folder), subset=6, **options) as pipe:
        found = {key for key in (f"{number:03d}" for number in range(12)) if has(pipe, key)}
        assert len(found) == 6
        assert found >= set(keys_of(pipe))
    write_tar(folder / "part-01.tar", samples(range(20, 24)))
    with make_pipeline(str(folder), **options) as pipe:
        assert pipe["022"]["__key__"] == "022"
        assert not has(pipe, "005")
    assert len(indexes_of_keys(tmp_path / "cache")) == 3


def has(pipe, key: str) -> bool:
    try:
        return pipe[key]["__key__"] == key
    except KeyError:
        return False


def test_a_torn_index_of_keys_is_made_anew(folder, tmp_path):
    options = {**SMALL, "cache_dir": tmp_path / "cache"}
    with make_pipeline(str(folder), **options) as pipe:
        assert has(pipe, "003")
        (index,) = indexes_of_keys(tmp_path / "cache")
        good = index.read_bytes()
        for damaged in (good[:-16], b""):
            index.write_bytes(damaged)
            assert has(pipe, "003")
            assert index.read_bytes() == good


def test_tars_are_indexed_behind_a_dataset_that_has_its_keys(dataset, folder, tmp_path):
    options = {**SMALL, "fields": ("audio",), "cache_dir": tmp_path / "cache"}
    with make_pipeline(dataset, **options) as pipe:
        key = next(iter(pipe))["__key__"][0]
    with make_pipeline([dataset, folder], **options) as pipe:
        assert has(pipe, key)
        assert not indexes_of_keys(tmp_path / "cache")
        assert has(pipe, "007")
    assert len(indexes_of_keys(tmp_path / "cache")) == 1


def test_tars_with_a_manifest_and_no_keys_are_indexed_beside_those_without(folder, tmp_path):
    (tmp_path / "wids").mkdir()
    (folder / "part-01.tar").rename(tmp_path / "wids" / "part-01.tar")
    shards = [{"url": "part-01.tar", "nsamples": 4}]
    (tmp_path / "wids" / "index.json").write_text(
        json.dumps({"wids_version": 1, "shardlist": shards})
    )
    urls = [str(folder), f"{tmp_path}/wids/index.json"]
    with make_pipeline(urls, cache_dir=tmp_path / "cache", **SMALL) as pipe:
        assert all(has(pipe, f"{number:03d}") for number in range(12))
    assert len(indexes_of_keys(tmp_path / "cache")) == 1


def test_an_index_outlives_the_cached_tar(folder, tmp_path):
    options = {**SMALL, "cache_dir": tmp_path / "cache", "cache_mount": True}
    with make_pipeline(str(folder), **options) as pipe:
        keys_of(pipe)
    for cached in (tmp_path / "cache").glob("*/*.tar"):
        cached.unlink()
    with make_pipeline(str(folder), **options) as pipe:
        assert pipe.stats()["fetched_bytes"] == (folder / "part-00.tar").stat().st_size
        assert len(keys_of(pipe)) == 12


def test_a_damaged_index_is_made_anew(folder, tmp_path, scanned):
    options = {**SMALL, "cache_dir": tmp_path / "cache"}
    make_pipeline(str(folder), **options).close()
    kept = sorted((tmp_path / "cache").glob("*/*.idx"))
    for path, damage in zip(kept, (b"", b"torn", bytes(40)), strict=True):
        path.write_bytes(damage)
    scanned.clear()
    for scans in (3, 0):
        with make_pipeline(str(folder), **options) as pipe:
            assert len(keys_of(pipe)) == 12
        assert len(scanned) == scans
        scanned.clear()


def test_reading_without_a_cache_leaves_nothing_behind(folder, tmp_path):
    with make_pipeline(str(folder), cache="off", cache_dir=tmp_path / "cache", **SMALL) as pipe:
        assert len(keys_of(pipe)) == 12
        assert has(pipe, "011")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_no_hindrance_in_place(folder, tmp_path, caplog):
    (tmp_path / "cache").touch()
    with make_pipeline(str(folder), cache_dir=tmp_path / "cache", **SMALL) as pipe:
        assert len(keys_of(pipe)) == 12
        assert has(pipe, "011")
    assert "cannot be kept" in caplog.text


def test_an_empty_tar_among_others_is_passed_over(folder):
    write_tar(folder / "a.tar", {})
    with make_pipeline(str(folder), shuffle=0, **SMALL) as pipe:
        assert len(keys_of(pipe)) == 12


def test_tars_without_any_sample_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {})
    with pytest.raises(ValueError, match="no sample in its 1 shards"):
        make_pipeline(str(tmp_path), **SMALL)


RATED = {"labels": {"rank": 1}}
LIST, FLAT = {"labels": [1, 2]}, {"timing": 3.5, "duration": 0.5}


@pytest.mark.parametrize(
    ("member", "record", "told"),
    [
        ("flac", LIST, "'labels' in its JSON is a list; an object of names and numbers is"),
        ("flac", FLAT, "its JSON has no 'labels', but numbers: timing; ratings are read from"),
        ("audio.flac", RATED, "t0.audio.flac is not read as audio: a key ends at the first dot"),
        ("perf.mid", RATED, "name it t0.mid"),
        ("flac", RATED, None),
    ],
)
def test_what_is_not_read_is_told(tmp_path, caplog, member, record, told):
    members = {f"t0.{member}": flac(0), "t0.json": json.dumps(record).encode()}
    write_tar(tmp_path / "a.tar", members)
    make_pipeline(str(tmp_path), **{**SMALL, "batch_size": 1}).close()
    assert told in caplog.text if told else not caplog.text


def test_dots_in_keys_are_told_in_one_short_message(tmp_path, caplog):
    good = {"a.flac": flac(0), "a.json": b"{}"}
    dotted = {f"take.{n:03d}.flac": flac(n) for n in range(20)}
    write_tar(tmp_path / "a.tar", good | dotted)
    with make_pipeline(str(tmp_path), shuffle=0, **{**SMALL, "batch_size": 2}) as pipe:
        with pytest.raises(DecodeError, match=r"and 15 more; .* name it take-000\.flac") as caught:
            next(iter(pipe))
    assert "019" not in str(caught.value)
    write_tar(tmp_path / "a.tar", dotted)
    with pytest.raises(ValueError, match=r"neither audio, MIDI nor labels.* KEY\.flac"):
        make_pipeline(str(tmp_path), **SMALL)
    assert "a key ends at the first dot" in caplog.text


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", ""])
def test_compressed_tars_are_named(tmp_path, name):
    write_tar(tmp_path / "a.tar", samples(range(1)))
    packed = gzip.compress((tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar").unlink()
    (tmp_path / (name or "a.tar.gz")).write_bytes(packed)
    with pytest.raises(DataError, match=r"a\.t.*gz.* is compressed.* gunzip"):
        make_pipeline(f"{tmp_path}/{name}", **SMALL)
    (tmp_path / "b.tar").write_bytes(packed)
    with pytest.raises(ShardError, match=r"b\.tar: is compressed, .*: gunzip it"):
        make_pipeline(f"{tmp_path}/b.tar", **SMALL)


@pytest.mark.parametrize("name", ["x.tar", "x.json", "a{1}", "a*", "a{0..1}", "a[b]"])
def test_a_folder_is_itself_whatever_it_is_called(folder, tmp_path, name):
    there = folder.rename(tmp_path / name)
    with make_pipeline(there, shuffle=0, **SMALL) as pipe:
        assert len(keys_of(pipe)) == 12


@pytest.mark.parametrize(
    ("within", "named"),
    [
        ("data[v2]", "part-00.tar"),
        ("data{1..2}", "part-00.tar"),
        ("data?", "part-00.tar"),
        ("data[v2]", "part-{00..00}.tar"),
    ],
)
def test_a_tar_is_itself_whatever_its_folder_is_called(folder, tmp_path, within, named):
    there = folder.rename(tmp_path / within)
    with make_pipeline(f"{there}/{named}", shuffle=0, **SMALL) as pipe:
        assert keys_of(pipe) == ["000", "001", "002", "003"]


def test_a_folder_called_tar_without_any_is_named(tmp_path):
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(ManifestError, match=r"a\.tar: neither manifest\.json nor tars"):
        make_pipeline(f"{tmp_path}/a.tar", **SMALL)
    with pytest.raises(FetchError, match=r"a\.tar: is a folder"):
        make_pipeline(f"{FaultFileSystem.protocol}://{tmp_path}/a.tar", **SMALL)


def test_a_subset_of_tars_in_unknown_order_is_warned_of(folder, dataset, caplog):
    make_pipeline(dataset, subset=16, **SMALL).close()
    assert not caplog.text
    for shards in (str(folder), [dataset, folder]):
        caplog.clear()
        make_pipeline(shards, subset=4, **SMALL).close()
        assert "one-sided" in caplog.text


# --- lists


def rated(path: Path, label: str, count: int = 4) -> Path:
    """A tar of samples of audio and one label."""
    members = {}
    for number in range(count):
        members[f"{label}{number}.flac"] = flac(number)
        members[f"{label}{number}.json"] = json.dumps({"labels": {label: number}}).encode()
    write_tar(path, members)
    return path


@pytest.mark.parametrize("first", [True, False])
def test_a_dataset_and_bare_tars_end_to_end_are_each_what_they_are(dataset, tmp_path, first):
    """The tar has neither JSON nor MIDI nor labels; of the dataset, MIDI alone is left out."""
    write_tar(tmp_path / "bare.tar", {f"bare{n}.flac": flac(n) for n in range(4)})
    shards = [dataset, tmp_path / "bare.tar"][:: 1 if first else -1]
    options = SMALL | {"shuffle": 0, "drop_last": False, "on_error": "skip"}
    with make_pipeline(dataset, **options) as pipe:
        names, own = pipe.dimensions, keys_of(pipe)
    with make_pipeline(shards, **options) as pipe:
        batches = list(pipe)
        assert pipe.stats()["skipped"] == 0
        assert pipe.dimensions == names
    assert "midi" not in batches[0]
    bare = [f"bare{number}" for number in range(4)]
    keys = [key for batch in batches for key in batch["__key__"] if key]
    assert keys == (own + bare if first else bare + own)
    found = dict(
        zip(keys, torch.cat([batch["labels"] for batch in batches])[: len(keys)], strict=True)
    )
    assert all(bool(found[key].isnan().all()) == key.startswith("bare") for key in keys)


def test_labels_of_every_part_of_a_list_are_columns(dataset, tmp_path):
    parts = [rated(tmp_path / name / "x.tar", name) for name in ("p", "q")]
    shards = [dataset, *(f"{part.parent}/*.tar" for part in parts)]
    with make_pipeline(dataset, **SMALL) as pipe:
        names = pipe.dimensions
    with make_pipeline(shards, shuffle=0, **SMALL) as pipe:
        assert pipe.dimensions == (*names, "p", "q")
        assert pipe["q3"]["labels"][-1] == 3
        assert pipe["q3"]["labels"][:-1].isnan().all()
    with pytest.raises(ValueError, match="has no 'midi'"):
        make_pipeline(shards, fields=["midi"], **SMALL)


@pytest.mark.parametrize(("count", "found"), [(16, 16), (17, 1)])
def test_of_many_tars_of_a_folder_one_is_looked_at(tmp_path, count, found):
    """A look may fetch a tar."""
    tars = [rated(tmp_path / f"{n:02d}.tar", f"label{n}", count=1) for n in range(count)]
    with make_pipeline(tars, **SMALL) as pipe:
        assert pipe.dimensions == tuple(f"label{n}" for n in range(found))


def test_of_tars_in_many_folders_the_first_16_are_looked_at(tmp_path):
    tars = [rated(tmp_path / f"{n:02d}" / "x.tar", f"label{n}", count=1) for n in range(18)]
    with make_pipeline(tars, **SMALL) as pipe:
        assert pipe.dimensions == tuple(f"label{n}" for n in range(16))


def test_a_pattern_may_be_longer_than_a_name_of_a_file(folder):
    url = f"{folder}/part-0[{'0' * 300}-1].tar"
    with make_pipeline(url, shuffle=0, **SMALL) as pipe:
        assert keys_of(pipe) == [f"{number:03d}" for number in range(8)]


@pytest.mark.parametrize("value", [1e39, -1e39])
def test_a_label_beyond_float32_is_told_with_its_key(tmp_path, value):
    members = samples(range(3)) | {"003.flac": flac(3)}
    members["003.json"] = json.dumps({"labels": {"other": None, "rank": value}}).encode()
    write_tar(tmp_path / "a.tar", members)
    with make_pipeline(tmp_path, shuffle=0, **SMALL) as pipe:
        with pytest.raises(DecodeError, match=r"'003'.*label 'rank' is not finite as float32"):
            next(iter(pipe))
    with make_pipeline(tmp_path, on_error="skip", max_error_rate=0.5, **SMALL) as pipe:
        assert next(iter(pipe))["weight"].sum() == 3
