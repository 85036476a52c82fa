"""packer index: tars of others become a dataset, or are refused with tar and offset."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import corpus
import fsspec
import numpy as np
import pytest
import soundfile

from loader import make_pipeline
from packer.foreign import index
from packer.verify import verify
from shards.errors import ManifestError, ShardError
from shards.index import index_bytes
from shards.manifest import load_manifest

RATE = corpus.SAMPLE_RATE


def sound(number: int, *, kind: str = "FLAC", seconds: float = 0.5) -> bytes:
    target, rng = io.BytesIO(), np.random.default_rng(number)
    soundfile.write(target, 0.1 * rng.standard_normal(round(seconds * RATE)), RATE, format=kind)
    return target.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar as Python's own module writes it, padded to its record size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(numbers: range) -> dict[str, bytes]:
    members = {}
    for number in numbers:
        labels = {"rank": number, "odd": None if number % 3 else 0.5, "who": "me"}
        members[f"a/{number:03d}.FLAC"] = sound(number)
        members[f"a/{number:03d}.json"] = json.dumps({"labels": labels}).encode()
    return members


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three tars of four samples each."""
    for shard in range(3):
        write_tar(tmp_path / "wds" / f"part-{shard}.tar", samples(range(4 * shard, 4 * shard + 4)))
    return tmp_path / "wds"


def run(url: object, **options: object):
    return list(index(str(url), progress=False, **({"workers": 0} | options)))


def manifest_of(folder: Path):
    return load_manifest((folder / "manifest.json").read_bytes(), name="manifest.json")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what is made


def test_the_manifest_counts_and_measures(folder):
    (made,) = run(folder)
    manifest = manifest_of(folder)
    assert made.manifest == manifest
    assert (manifest.name, manifest.samples, manifest.duration_s) == ("wds", 12, 6.0)
    assert manifest.fields == {"audio": "flac"}
    assert list(manifest.labels) == ["rank", "odd"]
    rank, odd = manifest.labels["rank"], manifest.labels["odd"]
    assert (rank.count, rank.min, rank.max, rank.mean) == (12, 0, 11, 5.5)
    assert (odd.count, odd.mean, odd.std) == (4, 0.5, 0)
    assert [shard.filesize for shard in manifest.shards] == [
        (folder / shard.url).stat().st_size for shard in manifest.shards
    ]
    assert made.remarks == ()


def test_what_is_made_verifies(folder):
    run(folder)
    (verified,) = verify(str(folder), workers=0, progress=False)
    assert (verified.faults, verified.samples) == ((), 12)


def test_the_loader_streams_it_without_touching_the_tars_first(folder):
    run(folder)
    before = content(folder)
    small = {"sample_rate": RATE, "clip_seconds": 0.5, "batch_size": 4}
    with make_pipeline(str(folder), shuffle=0, **small) as pipe:
        batches = [(batch["__key__"], batch["labels"][:, 0].tolist()) for batch in pipe]
        assert [key for keys, _ in batches for key in keys] == [f"a/{n:03d}" for n in range(12)]
        assert [rank for _, ranks in batches for rank in ranks] == list(range(12))
        assert pipe["a/007"]["labels"][0] == 7
    assert content(folder) == before


def test_wids_opens_it(folder, tmp_path):
    wids = pytest.importorskip("wids", reason="wids is not installed")
    run(folder)
    path = str(folder / "manifest.json")
    opened = wids.ShardListDataset(path, cache_dir=str(tmp_path), keep=True, transformations=[])
    assert [opened[n]["__key__"] for n in (11, 0)] == ["a/011", "a/000"]
    opened.close()


def test_processes_and_another_run_give_the_same_bytes(folder):
    run(folder)
    before = content(folder)
    run(folder, workers=2)
    assert content(folder) == before


def test_remote_tars_become_the_same_dataset(folder):
    remote = fsspec.filesystem("memory")
    for path in folder.iterdir():
        remote.pipe_file(f"/foreign-index/wds/{path.name}", path.read_bytes())
    run("memory://foreign-index/wds")
    run(folder)
    for name, data in content(folder).items():
        assert remote.cat_file(f"/foreign-index/wds/{name}") == data


def test_each_folder_of_tars_is_a_split(folder, tmp_path):
    shutil.move(folder, tmp_path / "root" / "train")
    write_tar(tmp_path / "root" / "val" / "x.tar", samples(range(2)))
    made = run(tmp_path / "root", name="mine")
    assert [(one.manifest.name, one.manifest.samples) for one in made] == [
        ("mine", 12),
        ("mine", 2),
    ]
    assert manifest_of(tmp_path / "root" / "val").samples == 2


def test_fields_of_some_samples_are_told(tmp_path):
    members = {
        "0.flac": sound(0),
        "1.wav": sound(1, kind="WAV"),
        "2.flac": sound(2),
        "3.json": b"7",
    }
    write_tar(tmp_path / "a.tar", members)
    (made,) = run(tmp_path)
    assert made.manifest.fields == {"audio": "flac"}
    assert made.remarks == (
        "1 of 4 samples have no audio",
        "audio is in several formats: 2 .flac, 1 .wav",
    )


def test_an_index_that_is_right_is_left_as_it_is(folder):
    run(folder)
    path = folder / "part-0.tar.idx"
    ours = np.frombuffer(path.read_bytes(), "<u8").tolist()
    lhotse = index_bytes([*ours[:-1], (folder / "part-0.tar").stat().st_size])
    path.write_bytes(lhotse)
    run(folder)
    assert path.read_bytes() == lhotse
    path.write_bytes(lhotse[8:])
    run(folder)
    assert path.read_bytes() == index_bytes(ours)


@pytest.mark.parametrize(
    ("members", "remarks"),
    [
        (
            {"t0.audio.flac": b"", "t1.audio.flac": b""},
            "2 of 2 samples seem to hold more than is read, such as 't0': t0.audio.flac is not "
            "read as audio: a key ends at the first dot of a name, and all behind it is the "
            "extension; name it t0.flac",
        ),
        (
            {"t0.flac": sound(0), "t0.json": b'{"rank": 3}'},
            "1 of 1 samples seem to hold more than is read, such as 't0': its JSON has no "
            "'labels', but numbers: rank; ratings are read from an object of names and numbers "
            "called 'labels'",
        ),
    ],
)
def test_what_is_not_read_is_told(tmp_path, members, remarks):
    write_tar(tmp_path / "a.tar", members)
    (made,) = run(tmp_path)
    assert made.remarks[-1:] == (remarks,)


# ---- what is refused


def test_a_compressed_tar_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", samples(range(1)))
    packed = gzip.compress((tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar").write_bytes(packed)
    with pytest.raises(ShardError, match=r"a\.tar: is compressed, .*: gunzip it"):
        run(tmp_path)
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(ManifestError, match=r"a\.tar\.gz is compressed: .* gunzip"):
        run(tmp_path)


def test_every_bad_tar_is_named_with_the_offset(folder):
    tar = folder / "part-1.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:3000])
    other = bytearray((folder / "part-2.tar").read_bytes())
    other[512 * 2 + 8] ^= 1  # a header's
    (folder / "part-2.tar").write_bytes(other)
    with pytest.raises(ShardError) as caught:
        run(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{folder}: 2 faults in 3 tars; nothing was written:"
    assert "part-1.tar: truncated: no header and no end-of-archive block at byte" in lines[1]
    assert "part-2.tar: damaged header at byte 1024" in lines[2]
    assert sorted(path.name for path in folder.iterdir()) == [f"part-{n}.tar" for n in range(3)]


def test_a_sample_in_two_places_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.flac": sound(0), "y.flac": sound(1), "x.json": b"{}"})
    with pytest.raises(ShardError, match=r"a\.tar: members of sample 'x' lie apart"):
        run(tmp_path)
    write_tar(tmp_path / "a.tar", {"x.flac": sound(0), "x.FLAC": sound(1)})
    with pytest.raises(ShardError, match=r"a\.tar: sample 'x' has two members \.flac"):
        run(tmp_path)


def test_a_key_in_two_tars_is_refused_with_both_offsets(folder):
    write_tar(folder / "part-9.tar", {"b.flac": sound(0), "a/005.flac": sound(1)})
    with pytest.raises(ShardError) as caught:
        run(folder)
    with tarfile.open(folder / "part-9.tar") as tar:
        offset = tar.getmembers()[1].offset
    text = str(caught.value)
    assert f"part-9.tar at byte {offset}: sample 'a/005' is in part-1.tar at byte" in text


def test_a_manifest_of_another_maker_is_kept_unless_overwritten(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "copy")
    before = content(copy)
    with pytest.raises(ManifestError, match="--overwrite"):
        run(copy)
    assert content(copy) == before
    run(copy, overwrite=True)
    after = content(copy)
    assert after.pop("manifest.json") != before.pop("manifest.json")
    assert after == before  # keys and indexes are what the packer writes
    run(copy)


def test_a_manifest_of_ours_is_made_anew_when_the_tars_change(folder):
    run(folder)
    write_tar(folder / "part-3.tar", samples(range(50, 52)))
    run(folder)
    assert manifest_of(folder).samples == 14


def test_a_folder_without_tars_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"holds no \.tar"):
        run(tmp_path)
