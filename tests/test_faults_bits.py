"""Flipped bits: found before a sample is delivered, and fetched once more if the cache had them."""

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import corpus
import numpy as np
import pytest
import torch
from test_foreign import write_tar

from loader import make_pipeline
from packer.__main__ import main as packer
from shards.errors import DataError
from shards.index import index_bytes
from shards.manifest import dump_manifest, load_manifest
from shards.npy import npy_bytes
from shards.reader import ShardReader
from shards.tar import END_OF_ARCHIVE, sample_bytes

RATE = corpus.SAMPLE_RATE
SMALL = {"sample_rate": RATE, "clip_seconds": 0.25, "max_notes": 4, "batch_size": 4, "shuffle": 0}


@pytest.fixture
def small(tmp_path) -> Path:
    """Twelve short samples in some three shards."""
    return corpus.make_dataset(tmp_path / "small", samples=12, shard_samples=4, seconds=0.25)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)


def stream(shards: Path, **options) -> list[dict]:
    with make_pipeline(shards, **{**SMALL, "num_workers": 0, **options}) as pipe:
        return [{**batch, "names": pipe.dimensions} for batch in pipe]


def equal(found: list[dict], expected: list[dict]) -> bool:
    def one(a, b) -> bool:
        return torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) if torch.is_tensor(a) else a == b

    return len(found) == len(expected) and all(
        one(value, other[name])
        for batch, other in zip(found, expected, strict=True)
        for name, value in batch.items()
    )


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def outcomes(shards: Path, victim: Path, bits, **options) -> Counter[str]:
    """What comes of each flip: "told" as an error, "same" batches, or others."""
    expected, good = stream(shards, **options), victim.read_bytes()
    found: Counter[str] = Counter()
    for bit in bits:
        flip(victim, int(bit))
        try:
            found["same" if equal(stream(shards, **options), expected) else "wrong"] += 1
        except DataError:
            found["told"] += 1
        victim.write_bytes(good)
    return found


def test_no_bit_of_a_flac_shard_is_delivered_wrong_but_where_only_the_hash_can_tell(small):
    """Audio, headers and structure are found; a number in JSON or MIDI that stays valid is not."""
    victim = sorted(small.glob("*.tar"))[0]
    data = victim.read_bytes()
    begin = data.index(b"fLaC")
    size = int(data[begin - 388 : begin - 377], 8)  # of its tar header
    audio = np.random.default_rng(0).integers(8 * begin, 8 * (begin + size), 60)
    told = outcomes(small, victim, [8 * (begin + 18) + n for n in range(20)] + [*audio])
    assert told["wrong"] == 0
    assert told["told"] > 60
    header = range(8 * (begin - 512), 8 * (begin - 200), 41)
    assert outcomes(small, victim, header)["wrong"] == 0


def test_no_bit_at_all_is_delivered_wrong_with_verify_hash(small):
    victim = sorted(small.glob("*.tar"))[0]
    bits = np.random.default_rng(0).integers(0, 8 * victim.stat().st_size, 40)
    assert outcomes(small, victim, bits, verify_hash=True) == {"told": 40}


def test_no_bit_of_an_index_makes_a_wrong_sample(small):
    """An index that is not the shard's own is done without."""
    victim = sorted(small.glob("*.idx"))[0]
    found = outcomes(small, victim, range(8 * victim.stat().st_size))
    assert set(found) == {"same"}


def test_a_sample_that_an_index_robs_of_its_json_is_not_delivered(tmp_path):
    """Its start lies behind its JSON: the sample before it is not even asked for.

    MIDI alone: nothing else would be missing.
    """
    folder = corpus.make_dataset(tmp_path, samples=8, shard_samples=8, audio=False)
    (tar,) = folder.glob("*.tar")
    with ShardReader(tar) as reader:
        offsets, members = reader.offsets.tolist(), reader.members(1)
        write_tar(tmp_path / "bare.tar", {"bare.mid": reader.read(0)["mid"]})
    assert [member.extension for member in members] == ["json", "mid"]
    with make_pipeline(folder, **SMALL, num_workers=0) as pipe:
        expected = pipe[members[1].key]
    offsets[1] = members[1].header
    tar.with_name(f"{tar.name}.idx").write_bytes(index_bytes(offsets))
    for shards in (folder, [folder, tmp_path / "bare.tar"]):  # which needs no JSON
        with make_pipeline(shards, **SMALL, num_workers=0) as pipe:
            assert equal([pipe[members[1].key]], [expected])


def test_no_bit_of_a_manifest_makes_another_dataset(small):
    victim = small / "manifest.json"
    begin = victim.read_bytes().rindex(b' "sha256"')  # behind it a flip is a flip of the hash
    bits = np.random.default_rng(0).integers(0, 8 * begin, 150)
    assert outcomes(small, victim, bits) == {"told": 150}


def test_a_manifest_that_was_edited_loses_its_hash_or_is_refused(small):
    manifest = load_manifest((small / "manifest.json").read_bytes(), name="x")
    data = dump_manifest(manifest).replace(b'"rank"', b'"rang"')
    with pytest.raises(DataError, match=r"its own SHA-256 is another.*remove its last entry"):
        load_manifest(data, name="x")
    document = json.loads(data)
    del document["sha256"]
    assert "rang" in load_manifest(json.dumps(document).encode(), name="x").labels


@pytest.mark.parametrize("cache", ["raw", "decoded"])
def test_what_is_damaged_in_the_cache_is_made_anew_once(small, tmp_path, cache, caplog):
    """In its audio, so that it is found when the sample is decoded and not before."""
    options = {"cache": cache, "cache_dir": tmp_path / "cache", "cache_mount": True}
    expected = stream(small, cache="off")
    with make_pipeline(small, **SMALL, **options) as pipe:
        for _ in pipe:
            pass
        while pipe._threads.keeping:
            pass
    damaged = 0
    for victim in (tmp_path / "cache").glob("*/*.tar"):
        data = victim.read_bytes()
        magic = b"\x93NUMPY" if "decoded" in str(victim) else b"fLaC"
        flip(victim, 8 * (data.index(magic) + (2 if "decoded" in str(victim) else 600)))
        damaged += 1
    assert damaged >= 3
    caplog.set_level(logging.WARNING)
    assert equal(stream(small, **options), expected)
    assert caplog.text.count("is damaged; it is removed from the cache and made anew") >= 3
    caplog.clear()
    assert equal(stream(small, **options), expected)
    assert "damaged" not in caplog.text


def test_verify_hash_finds_any_bit_of_a_decoded_copy(small, tmp_path):
    """Samples without checksums: nothing else could tell."""
    options = {"cache": "decoded", "cache_dir": tmp_path / "cache"}
    expected = stream(small, cache="off")
    with make_pipeline(small, **SMALL, **options) as pipe:
        for _ in pipe:
            pass
        while pipe._threads.keeping:
            pass
    victim = next((tmp_path / "cache").glob("*-decoded-*/*.tar"))
    flip(victim, 8 * (victim.read_bytes().index(b"\x93NUMPY") + 500))
    assert not equal(stream(small, **options), expected)
    assert equal(stream(small, verify_hash=True, **options), expected)


def test_a_sample_that_is_damaged_at_its_source_is_fetched_once_and_named(small, tmp_path):
    """What is in the cache is what lies there: it is not fetched again and again."""
    folder = tmp_path / "tars"
    folder.mkdir()
    tar = shutil.copy(sorted(small.glob("*.tar"))[0], folder / "a.tar")
    flip(Path(tar), 8 * (Path(tar).read_bytes().index(b"fLaC") + 600))
    options = {**SMALL, "cache_dir": tmp_path / "cache", "cache_mount": True, "batch_size": 2}
    with make_pipeline(tar, on_error="skip", max_error_rate=1.0, **options) as pipe:
        for _ in range(3):
            for _ in pipe:
                pass
        stats = pipe.stats()
    assert stats["skipped"] == 3
    assert stats["fetched_bytes"] == Path(tar).stat().st_size
    with make_pipeline(tar, **options) as pipe:
        with pytest.raises(DataError, match=r"a\.tar: sample 'audio-\d+.*miniaudio: .*soundfile: "):
            for _ in pipe:
                pass


def test_tars_without_json_that_were_only_indexed_need_none(tmp_path):
    """What the packer makes has JSON in every sample; what it indexes may have anything."""
    members = {"audio.npy": npy_bytes(np.arange(2000, dtype=np.int16))}
    samples = [sample_bytes(f"k{n}", members) for n in range(4)]
    (tmp_path / "a.tar").write_bytes(b"".join(samples) + END_OF_ARCHIVE)
    assert packer(["index", str(tmp_path)]) == 0
    (batch,) = stream(tmp_path, audio_dtype="int16")
    assert batch["audio"][3].tolist() == list(range(2000))
