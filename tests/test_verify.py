"""packer.verify: one damaged bit anywhere is found, and the shard and sample are named."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from packer.__main__ import main
from packer.audio import CODECS
from packer.build import build
from packer.options import Options
from packer.verify import Verified, verify
from shards.errors import ManifestError
from shards.keys import keys_bytes
from shards.notes import cut_midi, empty_midi, parse_midi
from shards.reader import ShardReader

SHARD = "shard-000001.tar"
RATE = 24000


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A dataset of noise in three shards."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    lines = []
    for n in range(9):
        soundfile.write(folder / f"{n}.wav", rng.uniform(-0.5, 0.5, RATE + 700 * n), RATE)
        lines.append(json.dumps({"audio_path": f"{n}.wav", "labels": {"x": n}, "half": n % 2}))
    (folder / "a.jsonl").write_text("\n".join(lines))
    for split in ({}, {"train": 0.6, "val": 0.4}):
        out = folder / ("splits" if split else "out")
        options = Options(shard_bytes=170_000, split=split)
        build(folder / "a.jsonl", str(out), options=options, workers=0, progress=False)
    return folder


@pytest.fixture
def dataset(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "set"))


def check(folder: Path) -> Verified:
    (result,) = verify(str(folder), workers=0, progress=False)
    return result


def place(dataset: Path, row: int, extension: str) -> tuple[str, int, int, int]:
    """Key, header, start and size of a member of the second shard."""
    with ShardReader(dataset / SHARD) as reader:
        (found,) = (m for m in reader.members(row) if m.extension == extension)
    return found.key, found.header, found.start, found.size


def flip(path: Path, position: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= bit
    path.write_bytes(data)


def change_manifest(dataset: Path, change: Callable[[dict], None]) -> None:
    path = dataset / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def trust(dataset: Path) -> None:
    """Give the manifest the hashes of what is there now, so that only content can speak."""

    def forget(document: dict) -> None:
        for shard in document["shardlist"]:
            shard["sha256"] = shard["filesize"] = None

    change_manifest(dataset, forget)


def test_a_good_dataset_has_no_faults(dataset, capsys):
    result = check(dataset)
    assert (result.samples, result.shards, result.faults) == (9, 3, ())
    assert main(["verify", str(dataset), "--workers", "0"]) == 0
    assert "9 samples in 3 shards: all good" in capsys.readouterr().out


def test_processes_find_the_same(dataset):
    flip(dataset / SHARD, 5000)
    (result,) = verify(str(dataset), workers=2, progress=False)
    assert result == check(dataset)
    assert result.faults


def test_every_split_is_checked(made, tmp_path, capsys):
    folder = Path(shutil.copytree(made / "splits", tmp_path / "splits"))
    assert main(["verify", str(folder), "--workers", "0"]) == 0
    flip(folder / "val" / "shard-000000.tar", 5000)
    assert main(["verify", str(folder), "--workers", "0"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in out] == ["all good"] * 3 + ["2 faults"]


def test_a_flipped_bit_in_audio_names_shard_and_sample(dataset, caplog):
    key, _, start, size = place(dataset, 1, "flac")
    flip(dataset / SHARD, start + size // 2)
    assert main(["verify", str(dataset), "--workers", "0"]) == 1
    assert f"{SHARD}: its SHA-256 is not the manifest's" in caplog.text
    assert f"{SHARD}: sample '{key}': audio d" in caplog.text


def test_a_flipped_bit_in_audio_is_heard_without_a_hash_too(dataset):
    key, _, start, size = place(dataset, 2, "flac")
    trust(dataset)
    for position in range(start + 200, start + size, size // 7):
        flip(dataset / SHARD, position)
        (fault,) = check(dataset).faults
        assert f"{SHARD}: sample '{key}': audio d" in fault
        flip(dataset / SHARD, position)
    assert not check(dataset).faults


def test_a_flipped_bit_in_the_padding_is_found_by_the_hash(dataset):
    _, _, start, size = place(dataset, 0, "json")
    flip(dataset / SHARD, start + size)
    (fault,) = check(dataset).faults
    assert fault.endswith(f"{SHARD}: its SHA-256 is not the manifest's")


def test_a_flipped_bit_in_a_header_names_the_byte(dataset):
    _, header, _, _ = place(dataset, 1, "json")
    flip(dataset / SHARD, header + 1)
    assert any(f"{SHARD}: damaged header at byte {header}" in f for f in check(dataset).faults)


def test_a_damaged_json_names_the_sample(dataset):
    key, _, start, _ = place(dataset, 1, "json")
    trust(dataset)
    flip(dataset / SHARD, start, ord("{") ^ ord("["))
    (fault,) = check(dataset).faults
    assert f"{SHARD}: sample '{key}': " in fault


@pytest.mark.parametrize("row", [0, 1, 3])
def test_a_flipped_bit_in_an_index_is_found(dataset, row):
    flip(dataset / f"{SHARD}.idx", 8 * row + 1, 2)
    (fault,) = check(dataset).faults
    assert f"{SHARD}.idx: " in fault


def test_an_index_of_another_shard_is_found(dataset):
    shutil.copy(dataset / "shard-000000.tar.idx", dataset / f"{SHARD}.idx")
    (fault,) = check(dataset).faults
    assert f"{SHARD}.idx: " in fault


def test_an_index_with_lhotses_last_value_is_good(dataset):
    index = dataset / f"{SHARD}.idx"
    size = (dataset / SHARD).stat().st_size
    index.write_bytes(index.read_bytes()[:-8] + struct.pack("<Q", size))
    assert not check(dataset).faults


def test_a_wrong_count_in_the_manifest_is_found(dataset):
    change_manifest(dataset, lambda document: document["shardlist"][1].update(nsamples=4))
    (fault,) = check(dataset).faults
    assert fault.endswith(f"{SHARD}: holds 3 samples, the manifest says 4")


@pytest.mark.parametrize("lost", [1, 512, 1024, 5000])
def test_a_truncated_tar_is_found(dataset, lost):
    with (dataset / SHARD).open("r+b") as file:
        file.truncate((dataset / SHARD).stat().st_size - lost)
    faults = check(dataset).faults
    assert faults
    assert all(SHARD in fault for fault in faults)


def test_a_tar_cut_between_two_members_is_found_without_a_size_too(dataset):
    """Where tarfile sees a whole archive."""
    _, header, _, _ = place(dataset, 2, "flac")
    trust(dataset)
    with (dataset / SHARD).open("r+b") as file:
        file.truncate(header)
    assert any(f"{SHARD}: truncated" in fault for fault in check(dataset).faults)


@pytest.mark.parametrize("name", [SHARD, f"{SHARD}.idx"])
def test_a_missing_file_is_named(dataset, name):
    (dataset / name).unlink()
    faults = check(dataset).faults
    assert len(faults) == 1
    assert name in faults[0]


def test_wrong_keys_are_found(dataset):
    (dataset / "keys.bin").write_bytes(keys_bytes([["a", "b"], ["c"]]))
    (fault,) = check(dataset).faults
    assert fault == f"{dataset}/keys.bin: is not that of these shards"


def test_missing_keys_are_found(dataset):
    (dataset / "keys.bin").unlink()
    (fault,) = check(dataset).faults
    assert fault == f"{dataset}/keys.bin: is missing"


def test_a_key_in_two_shards_is_found(dataset):
    key, *_ = place(dataset, 0, "json")
    shutil.copy(dataset / SHARD, dataset / "shard-000002.tar")
    shutil.copy(dataset / f"{SHARD}.idx", dataset / "shard-000002.tar.idx")
    trust(dataset)
    assert f"{dataset}: key '{key}' comes twice" in check(dataset).faults


def test_a_member_that_the_manifest_promises_is_missed(dataset):
    change_manifest(dataset, lambda document: document["fields"].update(midi="mid"))
    faults = check(dataset).faults
    assert len(faults) == 9
    assert all("has no member .mid" in fault for fault in faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(samples=8), "says 8 samples, there are 9"),
        (lambda d: d.update(duration_s=d["duration_s"] + 0.002), "the samples last 10.050 s"),
        (lambda d: d["labels"]["x"].update(mean=4.1), "label 'x' has LabelStats"),
    ],
)
def test_totals_that_are_not_those_of_the_samples_are_found(dataset, change, message):
    change_manifest(dataset, change)
    (fault,) = check(dataset).faults
    assert fault.startswith(f"{dataset}/manifest.json: ")
    assert message in fault


def _damaged(folder: Path, extension: str, damage: Callable[[bytes], bytes], **options) -> str:
    """The fault that is found once a member of one sample was changed."""
    soundfile.write(folder / "x.wav", np.random.default_rng(0).uniform(-0.5, 0.5, RATE), RATE)
    (folder / "x.mid").write_bytes(_one_note())
    (folder / "a.jsonl").write_text(json.dumps({"audio_path": "x.wav", "midi_path": "x.mid"}))
    out, chosen = folder / "out", Options(**options)
    build(folder / "a.jsonl", str(out), options=chosen, workers=0, progress=False)
    assert not check(out).faults
    shard = out / "shard-000000.tar"
    with ShardReader(shard) as reader:
        (member,) = (m for m in reader.members(0) if m.extension == extension)
    data = shard.read_bytes()
    stop = member.start + member.size
    changed = damage(data[member.start : stop])
    assert len(changed) == member.size
    shard.write_bytes(data[: member.start] + changed + data[stop:])
    trust(out)
    (fault,) = check(out).faults
    assert "shard-000000.tar: sample 'x': " in fault
    return fault


@pytest.mark.parametrize("codec", ["wav", "npy"])
def test_a_rate_that_no_loader_reads_is_found(tmp_path, monkeypatch, codec):
    """As an earlier packer, or another one, wrote it."""
    monkeypatch.setitem(CODECS, codec, replace(CODECS[codec], lowest=1))
    soundfile.write(tmp_path / "x.wav", np.sin(np.arange(RATE) / 100), RATE)
    (tmp_path / "a.jsonl").write_text('{"audio_path": "x.wav"}')
    options, out = Options(audio=codec, sample_rate=100), tmp_path / "out"
    build(tmp_path / "a.jsonl", str(out), options=options, workers=0, progress=False)
    (fault,) = check(out).faults
    assert "sample 'x': audio is at 100 Hz; 1000 to 1000000 are read" in fault


@pytest.mark.parametrize("codec", ["mp3", "ogg", "opus"])
def test_audio_that_ends_early_is_found_in_every_codec(tmp_path, codec):
    def cut(data: bytes) -> bytes:
        return data[: len(data) // 2] + bytes(-(-len(data) // 2))

    assert "audio d" in _damaged(tmp_path, codec, cut, audio=codec)


@pytest.mark.parametrize("more", [2, 20_000])
def test_a_wav_that_ends_within_its_samples_is_found(tmp_path, more):
    """libsndfile takes what is there for all of it, and as many frames are annotated."""

    def cut(data: bytes) -> bytes:
        return data[:40] + struct.pack("<I", len(data) - 44 + more) + data[44:]

    assert "bytes where its header declares" in _damaged(tmp_path, "wav", cut, audio="copy")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-24] + struct.pack("<6f", 0, 2, 60, 64, 0, 0), "other notes than its MIDI"),
        (lambda b: b.replace(b"(1, 6)", b"(2, 3)"), "npy declares float32 (2, 3)"),
        (lambda b: b.replace(b"(1, 6)", b"(9, 6)"), "truncated"),
        (lambda b: b"\0" + b[1:], "not an npy file"),
    ],
)
def test_a_table_that_is_not_its_midi_s_is_found(tmp_path, damage, message):
    assert message in _damaged(tmp_path, "notes.npy", damage, midi="notes")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"wids_version": 1}'])
def test_a_damaged_manifest_is_an_error(dataset, caplog, content):
    (dataset / "manifest.json").write_bytes(content)
    assert main(["verify", str(dataset)]) == 1
    assert "manifest.json: " in caplog.text


@pytest.mark.parametrize("name", ["manifest.json", SHARD, "splits/train/manifest.json"])
def test_a_file_is_no_dataset(made, caplog, name):
    path = made / ("" if "/" in name else "out") / name
    assert main(["verify", str(path)]) == 1
    assert f"{path}: is a file; a dataset is a folder, such as {path.parent}" in caplog.text


def test_a_folder_without_a_dataset_is_an_error(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ManifestError, match=r"no manifest\.json in it"):
            check(folder)


def test_damaged_midi_names_the_sample(tmp_path):
    lines = [{"midi_path": f"{n}.mid", "end_time": 1.0} for n in range(2)]
    for n in range(2):
        (tmp_path / f"{n}.mid").write_bytes(_one_note())
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build(tmp_path / "a.jsonl", str(tmp_path / "out"), workers=0, progress=False)
    shard = tmp_path / "out" / "shard-000000.tar"
    with ShardReader(shard) as reader:
        (member,) = (m for m in reader.members(1) if m.extension == "mid")
    flip(shard, member.start)
    trust(tmp_path / "out")
    (fault,) = check(tmp_path / "out").faults
    assert f"shard-000000.tar: sample '{member.key}': not a readable MIDI file" in fault


def _one_note() -> bytes:
    score = parse_midi(empty_midi())
    data = bytearray(cut_midi(score, start_s=0.0, end_s=1.0).midi)
    track = b"\x00\x90\x3c\x40\x83\x60\x80\x3c\x00\x00\xff\x2f\x00"
    body = data.rindex(b"MTrk")
    return bytes(data[:body]) + b"MTrk" + struct.pack(">I", len(track)) + track
