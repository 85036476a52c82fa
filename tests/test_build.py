"""packer.build: shards say what the recordings say, in the same bytes everywhere, or not at all."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import fsspec
import numpy as np
import pretty_midi
import pytest
import soundfile
import soxr

from packer.__main__ import main
from packer.build import build
from packer.options import Options
from packer.verify import verify
from shards.errors import AnnotationError, DataError, ManifestError
from shards.manifest import FORMAT_VERSION, Manifest, load_manifest
from shards.reader import ShardReader

# of pretty_midi, which imports a package that is to be replaced
pytestmark = pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning")

RATE = 24000
RECORDINGS = 6
CLIP_S = 1.5
CLIPS = 4  # a recording
SECONDS = CLIP_S * CLIPS
SMALL = Options(shard_bytes=200_000)


def tones(seed: int, times: np.ndarray) -> np.ndarray:
    """(T,) a chord below 9 kHz, which every sample rate here can hold, at any times in seconds."""
    rng = np.random.default_rng(seed)
    pitches, phases = rng.uniform(60, 9000, 12), rng.uniform(0, 6, 12)
    return 0.06 * np.sin(2 * np.pi * pitches[:, None] * times + phases[:, None]).sum(axis=0)


def record(path: Path, seed: int, *, rate: int = RATE, channels: int = 1) -> None:
    times = np.arange(round(SECONDS * rate)) / rate
    sound = np.stack([tones(seed + 100 * channel, times) for channel in range(channels)], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype="PCM_16")


def play(path: Path, seed: int) -> None:
    """A MIDI file of notes all through the recording, some across the cuts; the pedal moves."""
    rng = np.random.default_rng(seed)
    file = pretty_midi.PrettyMIDI(initial_tempo=100.0)
    piano = pretty_midi.Instrument(0)
    for pitch in range(40, 90, 3):
        for start in np.arange(rng.uniform(0, 0.5), SECONDS - 0.7, 0.7):
            end = start + rng.uniform(0.05, 0.65)
            piano.notes.append(pretty_midi.Note(int(rng.integers(1, 128)), pitch, start, end))
    piano.control_changes.append(pretty_midi.ControlChange(64, 90, 0.4))
    file.instruments.append(piano)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.write(str(path))


def write_lines(folder: Path, lines: list[dict]) -> Path:
    path = folder / "annotations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def clips(number: int) -> list[dict]:
    """The annotations of one recording."""
    return [
        {
            "audio_path": f"audio/{number}.wav",
            "midi_path": f"midi/{number}.mid",
            "start_time": clip * CLIP_S,
            "end_time": (clip + 1) * CLIP_S,
            "piece": f"piece-{number % 3}",
            "labels": {"tempo": number + clip / 4, "touch": None if clip else number},
        }
        for clip in range(CLIPS)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Recordings of several rates and widths, their MIDI, and 24 annotations."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(RECORDINGS):
        rate = (24000, 44100, 48000)[number % 3]
        record(folder / f"audio/{number}.wav", number, rate=rate, channels=1 + number % 2)
        play(folder / f"midi/{number}.mid", number)
    return write_lines(folder, [line for number in range(RECORDINGS) for line in clips(number)])


@pytest.fixture(scope="module")
def dataset(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dataset") / "out"
    make(corpus, out, options=SMALL)
    return out


def make(annotations: Path, out: Path | str, **options: object) -> list[Manifest]:
    options = {"workers": 0, "options": SMALL} | options
    return [one.manifest for one in build(annotations, str(out), progress=False, **options)]


def manifest_of(folder: Path) -> Manifest:
    return load_manifest((folder / "manifest.json").read_bytes(), name=str(folder))


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Everything in a dataset: bytes by key and extension, in stored order."""
    found = {}
    for info in manifest_of(folder).shards:
        with ShardReader(folder / info.url, samples=info.nsamples) as reader:
            for row in range(len(reader)):
                found[reader.members(row)[0].key] = reader.read(row)
    return found


def annotations_of(folder: Path) -> dict[str, dict]:
    return {key: json.loads(files["json"]) for key, files in samples(folder).items()}


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def decibels(signal_: np.ndarray, expected: np.ndarray) -> float:
    error = ((signal_ - expected) ** 2).sum()
    return float(10 * np.log10((expected**2).sum() / error)) if error else np.inf


# --- content is true


def test_every_sample_is_there_once_with_all_of_its_members(corpus, dataset):
    found = samples(dataset)
    assert sorted(found) == sorted(
        f"audio-{number}-{clip * 1500}" for number in range(RECORDINGS) for clip in range(CLIPS)
    )
    assert {tuple(files) for files in found.values()} == {("flac", "json", "mid")}
    assert list(found) != sorted(found), "the order is shuffled"


@pytest.mark.parametrize("codec", ["flac", "wav", "npy"])
def test_audio_is_the_recording_cut_mixed_and_resampled(corpus, tmp_path, codec):
    """Against the cut by another resampler's quality, and inside it against the sound itself."""
    make(corpus, tmp_path / "out", options=Options(audio=codec))
    inside = slice(RATE // 20, -RATE // 20)  # a cut sound has an edge, which filters smear
    for files in samples(tmp_path / "out").values():
        meta = json.loads(files["json"])
        if codec == "npy":
            found = np.load(io.BytesIO(files["audio.npy"]))
        else:
            found, rate = soundfile.read(io.BytesIO(files[codec]), dtype="int16")
            assert rate == RATE
        assert found.dtype == np.int16
        assert found.shape == (meta["frames"],) == (round(CLIP_S * RATE),)
        expected = _independent(corpus.parent / meta["audio_path"], meta["start_time"])
        assert decibels(found / 32768, expected) > 45
        seed, times = int(Path(meta["audio_path"]).stem), np.arange(len(found)) / RATE
        channels = [tones(seed + 100 * c, times + meta["start_time"]) for c in range(1 + seed % 2)]
        assert decibels((found / 32768)[inside], np.mean(channels, axis=0)[inside]) > 60


def _independent(path: Path, start_s: float) -> np.ndarray:
    whole, rate = soundfile.read(path, always_2d=True)
    cut = whole[round(start_s * rate) : round((start_s + CLIP_S) * rate)].mean(axis=1)
    return soxr.resample(cut, rate, RATE, quality="VHQ")


def test_audio_of_the_same_rate_is_kept_to_the_bit(corpus, dataset):
    for files in samples(dataset).values():
        meta = json.loads(files["json"])
        if meta["audio_path"] == "audio/0.wav":
            whole, _ = soundfile.read(corpus.parent / "audio/0.wav", dtype="int16")
            found, _ = soundfile.read(io.BytesIO(files["flac"]), dtype="int16")
            start = round(meta["start_time"] * RATE)
            assert np.array_equal(found, whole[start : start + len(found)])


def test_midi_is_that_of_the_window(corpus, dataset):
    for files in samples(dataset).values():
        meta = json.loads(files["json"])
        whole = pretty_midi.PrettyMIDI(str(corpus.parent / meta["midi_path"]))
        cut = pretty_midi.PrettyMIDI(io.BytesIO(files["mid"]))
        start, end = meta["start_time"], meta["end_time"]
        expected = sorted(
            (n.pitch, n.velocity, max(n.start - start, 0), min(n.end, end) - start)
            for n in whole.instruments[0].notes
            if n.start < end - 1e-6 and n.end > start + 1e-6
        )
        found = sorted((n.pitch, n.velocity, n.start, n.end) for n in cut.instruments[0].notes)
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        assert np.abs(np.subtract(found, expected)).max() < 1e-3
        assert (meta["midi_bar"], meta["midi_beat"]) == (
            int(start / 2.4),
            pytest.approx(start % 2.4 / 0.6, abs=1e-3),
        )


def test_json_is_the_annotation_and_what_was_computed(dataset):
    meta = annotations_of(dataset)["audio-2-1500"]
    assert meta == {
        "audio_path": "audio/2.wav",
        "midi_path": "midi/2.mid",
        "start_time": 1.5,
        "end_time": 3.0,
        "piece": "piece-2",
        "labels": {"tempo": 2.25, "touch": None},
        "sample_rate": RATE,
        "frames": 36000,
        "duration": 1.5,
        "midi_bar": 0,
        "midi_beat": 2.5,
        "has_midi": True,
    }


def test_every_json_has_the_same_keys_and_types(tmp_path, corpus):
    lines = [*clips(0)[:2], clips(1)[0] | {"year": 1999, "tags": {"hall": "big"}}, clips(2)[0]]
    lines[3] |= {"year": 1999.5, "tags": {"mic": 2}}
    path = corpus.with_name("mixed.jsonl")
    path.write_text("\n".join(map(json.dumps, lines)))
    make(path, tmp_path / "out")
    found = annotations_of(tmp_path / "out")
    assert len({tuple(meta) for meta in found.values()}) == 1
    assert {repr(meta["year"]) for meta in found.values()} == {"None", "1999.0", "1999.5"}
    assert found["audio-1-0"]["tags"] == {"hall": "big", "mic": None}
    assert found["audio-0-0"]["tags"] is None


def test_the_manifest_counts_what_is_there(corpus, dataset):
    manifest = manifest_of(dataset)
    assert (manifest.samples, manifest.name) == (24, "annotations")
    assert manifest.fields == {"audio": "flac", "midi": "mid"}
    assert manifest.duration_s == 36.0
    tempo, touch = manifest.labels["tempo"], manifest.labels["touch"]
    values = [n + clip / 4 for n in range(RECORDINGS) for clip in range(CLIPS)]
    assert list(manifest.labels) == ["tempo", "touch"]
    assert (tempo.count, tempo.min, tempo.max) == (24, 0.0, 5.75)
    assert (tempo.mean, tempo.std) == pytest.approx((np.mean(values), np.std(values)))
    assert (touch.count, touch.mean) == (6, 2.5)
    for info in manifest.shards:
        data = (dataset / info.url).read_bytes()
        assert (len(data), sha256(data).hexdigest()) == (info.filesize, info.sha256)
    assert str(corpus.parent) not in (dataset / "manifest.json").read_text()


def test_a_recording_and_its_midi_may_go_along_whole(tmp_path):
    record(tmp_path / "a.wav", 1)
    play(tmp_path / "a.mid", 1)
    make(write_lines(tmp_path, [{"audio_path": "a.wav", "midi_path": "a.mid"}]), tmp_path / "out")
    (files,) = samples(tmp_path / "out").values()
    assert files["mid"] == (tmp_path / "a.mid").read_bytes()
    assert json.loads(files["json"])["duration"] == SECONDS


def test_midi_alone_makes_a_dataset_without_audio(tmp_path):
    play(tmp_path / "a.mid", 1)
    (manifest,) = make(
        write_lines(tmp_path, [{"midi_path": "a.mid", "end_time": 3.0}]), tmp_path / "out"
    )
    (files,) = samples(tmp_path / "out").values()
    meta = json.loads(files["json"])
    assert set(files) == {"json", "mid"}
    assert manifest.fields == {"midi": "mid"}
    assert meta["duration"] == manifest.duration_s == 3.0
    assert not {"frames", "sample_rate"} & meta.keys()


def test_audio_alone_makes_a_dataset_without_midi(tmp_path):
    record(tmp_path / "a.wav", 1)
    (manifest,) = make(write_lines(tmp_path, [{"audio_path": "a.wav"}]), tmp_path / "out")
    (files,) = samples(tmp_path / "out").values()
    assert set(files) == {"flac", "json"}
    assert manifest.fields == {"audio": "flac"}
    assert "has_midi" not in json.loads(files["json"])


def test_a_sample_without_midi_among_others_gets_an_empty_one(tmp_path, corpus):
    lines = clips(0)[:2]
    del lines[1]["midi_path"]
    path = corpus.with_name("without.jsonl")
    path.write_text("\n".join(map(json.dumps, lines)))
    make(path, tmp_path / "out")
    found = samples(tmp_path / "out")
    assert set(found["audio-0-1500"]) == set(found["audio-0-0"])
    metas = annotations_of(tmp_path / "out")
    assert [metas[f"audio-0-{start}"]["has_midi"] for start in (0, 1500)] == [True, False]
    midi = pretty_midi.PrettyMIDI(io.BytesIO(found["audio-0-1500"]["mid"]))
    assert not any(instrument.notes for instrument in midi.instruments)


def test_paths_of_another_machine_are_rewritten(tmp_path, corpus):
    lines = [line | {"audio_path": f"/gone/{line['audio_path']}"} for line in clips(0)]
    path = corpus.with_name("elsewhere.jsonl")
    path.write_text("\n".join(map(json.dumps, lines)))
    arguments = ["--out", str(tmp_path / "out"), "--rewrite", f"/gone={corpus.parent}"]
    assert main(["build", str(path), *arguments, "--workers", "0"]) == 0
    assert set(samples(tmp_path / "out")) == {f"audio-0-{clip * 1500}" for clip in range(CLIPS)}


# --- the same bytes


def test_workers_and_place_leave_no_trace(corpus, dataset, tmp_path):
    """In the bytes: a copy of the corpus elsewhere, by two processes, gives the same tree."""
    moved = tmp_path / "moved" / "deep"
    moved.parent.mkdir()
    subprocess.run(["cp", "-r", corpus.parent, moved], check=True)
    make(moved / corpus.name, tmp_path / "two", workers=2)
    make(corpus, tmp_path / "one", workers=1)
    expected = tree(dataset)
    names = {
        f"shard-{n:06d}.tar{end}" for n in range(len(expected) // 2 - 1) for end in ("", ".idx")
    }
    assert expected.keys() == {"manifest.json", "keys.bin", "README.md", *names}
    assert len(names) > 4
    assert tree(tmp_path / "two") == tree(tmp_path / "one") == expected


def test_another_seed_is_another_order_of_the_same_samples(corpus, dataset, tmp_path):
    make(corpus, tmp_path / "out", options=Options(shard_bytes=200_000, seed=1))
    found, before = samples(tmp_path / "out"), samples(dataset)
    assert found == before
    assert list(found) != list(before)


@pytest.mark.parametrize("shard_bytes", [100_000, 250_000, 10**9])
def test_shards_are_near_the_size_asked_for(corpus, tmp_path, shard_bytes):
    (manifest,) = make(corpus, tmp_path / "out", options=Options(shard_bytes=shard_bytes))
    sizes = [info.filesize for info in manifest.shards]
    if sum(sizes) < shard_bytes:
        assert len(sizes) == 1
        return
    assert abs(np.mean(sizes) - shard_bytes) < 0.3 * shard_bytes
    assert max(sizes) - min(sizes) < 2.5 * manifest.bytes / manifest.samples


def test_groups_bound_what_is_encoded_at_a_time(corpus, dataset, tmp_path):
    options = Options(shard_bytes=100_000, group_bytes=300_000)
    (manifest,) = make(corpus, tmp_path / "out", options=options)
    assert samples(tmp_path / "out") == samples(dataset)
    recordings = [
        {
            annotation["audio_path"]
            for annotation in annotations_of_shard(tmp_path / "out", info.url)
        }
        for info in manifest.shards
    ]
    assert len(manifest.shards) > 6
    assert all(len(found) <= 3 for found in recordings), "a shard holds one group's recordings"


def annotations_of_shard(folder: Path, name: str) -> list[dict]:
    with ShardReader(folder / name) as reader:
        return [json.loads(reader.read(row)["json"]) for row in range(len(reader))]


# --- splits


@pytest.fixture(scope="module")
def splits(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("splits") / "out"
    options = Options(split={"train": 2, "val": 1}, group_by="piece")
    make(corpus, out, options=options)
    return out


def test_no_group_is_in_two_splits(splits):
    pieces = {
        split: {meta["piece"] for meta in annotations_of(splits / split).values()}
        for split in ("train", "val")
    }
    assert not pieces["train"] & pieces["val"]
    assert Counter({s: manifest_of(splits / s).samples for s in pieces}) == {"train": 16, "val": 8}
    assert sorted(path.name for path in splits.iterdir()) == ["README.md", "train", "val"]


def test_splits_share_fields_and_keys_of_the_json(splits):
    metas = [meta for split in ("train", "val") for meta in annotations_of(splits / split).values()]
    assert len({(tuple(meta), tuple(meta["labels"])) for meta in metas}) == 1


def test_a_recording_is_never_in_two_splits_by_default(corpus, tmp_path):
    make(corpus, tmp_path / "out", options=Options(split={"a": 0.5, "b": 0.25, "c": 0.25}))
    paths = [
        {meta["audio_path"] for meta in annotations_of(tmp_path / "out" / split).values()}
        for split in "abc"
    ]
    assert sum(map(len, paths)) == len(set.union(*paths)) == RECORDINGS
    assert sorted(map(len, paths)) in ([1, 2, 3], [2, 2, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(split={"a": 0.5, "b": 0.5}, group_by="composer"), "line 1 has no 'composer'"),
        (
            Options(split=dict.fromkeys("abcd", 1.0), group_by="piece"),
            "would be empty: 3 groups of piece are too few",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(corpus, tmp_path, options, message):
    with pytest.raises((AnnotationError, ValueError), match=message):
        make(corpus, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


# --- what is there already


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_finished_dataset_says_complete(corpus, dataset, capsys):
    before = times(dataset)
    arguments = ["build", str(corpus), "--out", str(dataset), "--shard-size", "200KB"]
    assert main(arguments) == 0
    assert "complete already: 24 samples" in capsys.readouterr().out
    assert times(dataset) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": Options(shard_bytes=200_000, seed=1)}, "seed=0"),
        ({"options": Options(audio="wav", shard_bytes=200_000)}, "audio='flac'"),
        ({"options": Options(shard_bytes=100_000)}, "shard_bytes=200000"),
        ({"name": "other"}, "another dataset, 'annotations' and not 'other'"),
    ],
)
def test_other_options_are_refused_and_named(corpus, dataset, change, named):
    before = times(dataset)
    with pytest.raises(ManifestError, match=f"holds .*{re.escape(named)}.*--overwrite"):
        make(corpus, dataset, **change)
    assert times(dataset) == before


def test_other_annotations_are_refused_unless_overwritten(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    make(corpus, out, name="x")
    fewer = corpus.with_name("fewer.jsonl")
    fewer.write_text("\n".join(map(json.dumps, clips(0))))
    arguments = ["build", str(fewer), "--out", str(out), "--name", "x", "--workers", "0"]
    before = tree(out)
    assert main([*arguments, "--shard-size", "200KB"]) == 1
    assert tree(out) == before
    assert main([*arguments, "--shard-size", "200KB", "--overwrite"]) == 0
    assert capsys.readouterr().out.count("made: 4 samples") == 1
    make(fewer, tmp_path / "fresh", name="x")
    assert tree(out) == tree(tmp_path / "fresh")


def test_tars_of_somebody_else_are_refused(corpus, tmp_path):
    (tmp_path / "mine.tar").write_bytes(b"precious")
    with pytest.raises(ManifestError, match="tars that are no dataset of this packer"):
        make(corpus, tmp_path)
    assert os.listdir(tmp_path) == ["mine.tar"]


def test_splits_and_a_dataset_without_do_not_share_a_folder(corpus, dataset, splits):
    for out, options in ((splits, SMALL), (dataset, Options(split={"train": 2, "val": 1}))):
        before = tree(out)
        with pytest.raises(ManifestError, match="a dataset of other splits"):
            make(corpus, out, options=options)
        assert tree(out) == before


def test_a_manifest_of_a_newer_version_is_left_alone(corpus, tmp_path):
    newer = json.dumps({"wids_version": 1, "format_version": FORMAT_VERSION + 1, "shardlist": []})
    (tmp_path / "manifest.json").write_text(newer)
    with pytest.raises(ManifestError, match=r"format version 2 is newer .* \(1\)"):
        make(corpus, tmp_path)
    assert tree(tmp_path) == {"manifest.json": newer.encode()}


def test_a_finished_dataset_that_lost_a_shard_does_not_say_complete(corpus, tmp_path):
    make(corpus, tmp_path / "out")
    (tmp_path / "out" / "shard-000001.tar").unlink()
    with pytest.raises(ManifestError, match=r"shard-000001\.tar: missing or not"):
        make(corpus, tmp_path / "out")


# --- interrupted

GROUPS = Options(shard_bytes=100_000, group_bytes=300_000)


def test_a_build_that_broke_off_goes_on_where_it_stopped(corpus, tmp_path):
    """What is made is kept, what is missing is made, and no byte tells of it."""
    make(corpus, tmp_path / "straight", options=GROUPS)
    out = tmp_path / "out"
    obstacle = out / "build-group-00002.json"  # where the build would note its third group
    obstacle.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        make(corpus, out, options=GROUPS)
    assert not (out / "manifest.json").exists()
    kept = {name: t for name, t in times(out).items() if name.endswith(".tar")}
    assert kept
    obstacle.rmdir()
    note = json.loads((out / "build-group-00000.json").read_text())
    lost = min(shard["info"]["url"] for shard in note["shards"])
    (out / lost).unlink()
    make(corpus, out, options=GROUPS)
    after = times(out)
    assert {name for name in kept if after[name] == kept[name]} == kept.keys() - {lost} != set()
    assert tree(out) == tree(tmp_path / "straight")


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(corpus, tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "out"
    make(corpus, straight, options=GROUPS)
    command = [sys.executable, "-m", "packer", "build", str(corpus), "--out", str(out)]
    options = ["--shard-size", "100KB", "--shuffle-group", "300KB", "--workers", "0"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    while not list(out.glob("build-group-*.json")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    make(corpus, out, options=GROUPS)
    assert tree(out) == tree(straight)


def test_notes_of_a_build_killed_at_its_very_end_are_cleared_away(corpus, tmp_path):
    make(corpus, tmp_path / "out")
    expected = tree(tmp_path / "out")
    (tmp_path / "out" / "build.json").write_text("{}")
    (tmp_path / "out" / "build-group-00000.json").write_text("{}")
    make(corpus, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


def test_a_begun_build_of_other_options_is_refused(corpus, tmp_path):
    (tmp_path / "out" / "build-group-00000.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        make(corpus, tmp_path / "out", options=GROUPS)
    (tmp_path / "out" / "build-group-00000.json").rmdir()
    with pytest.raises(ManifestError, match="shard_bytes=100000, group_bytes=300000"):
        make(corpus, tmp_path / "out", options=SMALL)


# --- bad input


def _faulty(folder: Path) -> None:
    """The files that the lines below speak of."""
    record(folder / "good.wav", 1)
    play(folder / "good.mid", 1)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no sound at all")
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "silent.wav", np.zeros(0), RATE)
    pretty_midi.PrettyMIDI().write(str(folder / "none.mid"))
    (folder / "text.mid").write_text("no music at all")


GOOD = {"audio_path": "good.wav", "midi_path": "good.mid", "labels": {"tempo": 1.0}}
BAD = {
    "broken JSON": ('{"audio_path": "good.wav"', ":2: not JSON: Expecting ',' delimiter"),
    "missing audio": ({"audio_path": "gone.wav"}, ":2: .*gone.wav: no such file"),
    "empty audio": ({"audio_path": "empty.wav"}, ":2: .*empty.wav: is empty"),
    "audio of no frames": ({"audio_path": "silent.wav"}, ":2: .*silent.wav: holds no audio"),
    "audio that is none": ({"audio_path": "text.wav"}, ":2: .*text.wav: not a readable recording"),
    "a folder": ({"audio_path": "folder.wav"}, ":2: .*folder.wav: not a file"),
    "end before start": (
        GOOD | {"start_time": 3, "end_time": 2},
        ":2: 'end_time' 2.* is not after 'start_time' 3",
    ),
    "end past the end": (
        GOOD | {"key": "k", "end_time": 60.0},
        ":2: end_time 60.0 lies past the end of .*good.wav, 6.000 s",
    ),
    "start past the end": (
        GOOD | {"start_time": 6.0},
        ":2: start_time 6.0 lies past the end of .*good.wav, 6.000 s",
    ),
    "missing MIDI": (
        GOOD | {"key": "k", "midi_path": "gone.mid"},
        ":2: .*gone.mid: no such MIDI file",
    ),
    "MIDI without notes": (
        GOOD | {"key": "k", "midi_path": "none.mid"},
        r":2: .*none.mid: MIDI without notes in \[0.0, 6.000\) s",
    ),
    "MIDI without notes there": (
        {"midi_path": "good.mid", "audio_path": "good.wav", "start_time": 5.97},
        ":2: .*good.mid: MIDI without notes in",
    ),
    "MIDI that is none": (
        GOOD | {"key": "k", "midi_path": "text.mid"},
        ":2: .*text.mid: not a readable MIDI file",
    ),
    "a label that is no number": (
        GOOD | {"key": "k", "labels": {"tempo": "fast"}},
        ":2: label 'tempo' must be a number or null, got 'fast'",
    ),
    "two of one key": (GOOD, ":2: key 'good' is that of line 1 too"),
    "two types": (GOOD | {"key": "k", "end_time": 1, "x": "1"}, "'x' is of type .* line 2"),
    "no audio among audio": (
        {"midi_path": "good.mid", "key": "k"},
        ":2: has no audio_path, while line 1 has one",
    ),
    "half a character": (r'{"audio_path": "\ud800.wav"}', ":2: not Unicode text"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_named_and_left_out(tmp_path, caplog, fault):
    line, message = BAD[fault]
    _faulty(tmp_path)
    good = GOOD | {"x": 1} if fault == "two types" else GOOD
    rows = [json.dumps(good), line if isinstance(line, str) else json.dumps(line)]
    path = tmp_path / "annotations.jsonl"
    path.write_text("\n".join(rows) + "\n")
    before = tree(tmp_path)
    assert main(["build", str(path), "--out", str(tmp_path / "new" / "out")]) == 1
    assert re.search(f"annotations.jsonl.*{message}", caplog.text, re.DOTALL)
    out = tmp_path / "new" / "out"
    if fault == "two types":
        assert tree(tmp_path) == before
    else:
        assert len(samples(out)) == 1
        assert [one["line"] for one in rejections(out)] == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.jsonl", "--out", "out"], "gone.jsonl: no such annotation file"),
        (["good.jsonl", "--out", "out", "--workers", "-1"], "workers must be at least 0, got -1"),
        (["good.jsonl", "--out", "nowhere://out"], "nowhere://out: Protocol not known"),
        (["good.jsonl", "--out", "good.wav/out"], "good.wav"),
        (["good.jsonl", "--out", "out", "--sample-rate", "0"], "sample_rate must be positive"),
        (["good.jsonl", "--out", "out", "--split", "a=0.5,b=0.5"], "would be empty"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(
    tmp_path, caplog, monkeypatch, arguments, message
):
    _faulty(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(json.dumps(GOOD))
    before = tree(tmp_path)
    assert main(["build", *arguments]) == 1
    assert message in caplog.text
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_many_faults_are_counted_and_ten_of_them_shown(tmp_path):
    _faulty(tmp_path)
    lines = [GOOD, *({"audio_path": f"gone-{n}.wav"} for n in range(25))]
    with pytest.raises(AnnotationError) as raised:
        make(write_lines(tmp_path, lines), tmp_path / "out")
    message = str(raised.value)
    assert message.startswith("25 of 26 annotations cannot be packed:")
    assert message.count("gone-") == 10
    assert "... and 15 more" in message


def test_the_command_line_says_so_with_its_exit_status(tmp_path):
    """In a process of its own, as a user calls it: one line, no traceback."""
    command = [sys.executable, "-m", "packer", "build", "gone.jsonl", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ERROR gone.jsonl: no such annotation file\n"
    assert not list(tmp_path.iterdir())


# --- leaving out


def rejections(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def test_a_share_of_the_annotations_may_be_left_out(tmp_path):
    _faulty(tmp_path)
    lines = [GOOD | {"key": f"k{n}", "start_time": n / 2} for n in range(8)]
    lines[3]["audio_path"] = "gone.wav"
    path = write_lines(tmp_path, lines)
    arguments = ["build", str(path), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*arguments, "--max-rejected", "12%"]) == 1
    whole = tree(tmp_path / "out")
    assert main([*arguments, "--max-rejected", "12.5%"]) == 0
    assert tree(tmp_path / "out") == whole
    assert set(samples(tmp_path / "out")) == {f"k{n}" for n in range(8)} - {"k3"}
    (rejection,) = rejections(tmp_path / "out")
    assert rejection["line"] == 4
    assert "gone.wav: no such file" in rejection["reason"]
    assert rejection["record"] == lines[3]


def _broken_off(path: Path) -> None:
    """A recording whose header promises more than the file holds."""
    record(path, 7)
    flac = path.with_suffix(".flac")
    soundfile.write(flac, *soundfile.read(path))
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])


def test_a_recording_that_breaks_off_is_found_while_encoding(corpus, tmp_path):
    _broken_off(tmp_path / "b.wav")
    line = {"audio_path": str(tmp_path / "b.flac"), "key": "broken"}
    path = corpus.with_name("broken.jsonl")
    path.write_text("\n".join(map(json.dumps, [*clips(0), line])))
    with pytest.raises(DataError, match=r"broken\.jsonl:5: .*b\.flac"):
        make(path, tmp_path / "out")
    make(path, tmp_path / "left", max_rejected=0.2)
    assert tree(tmp_path / "out") == tree(tmp_path / "left")
    assert len(samples(tmp_path / "left")) == 4
    assert [rejection["line"] for rejection in rejections(tmp_path / "left")] == [5]
    before = (tmp_path / "left" / "rejected.jsonl").read_bytes()
    make(path, tmp_path / "left", max_rejected=0.2)  # complete: nothing is encoded
    assert (tmp_path / "left" / "rejected.jsonl").read_bytes() == before


def test_what_an_interrupted_build_left_out_is_told_by_the_one_that_goes_on(corpus, tmp_path):
    _broken_off(tmp_path / "b.wav")
    line = {"audio_path": str(tmp_path / "b.flac"), "key": "broken"}
    path = corpus.with_name("interrupted.jsonl")
    path.write_text("\n".join(map(json.dumps, [*clips(0), line])))
    obstacle = tmp_path / "out" / "keys.bin"
    obstacle.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        make(path, tmp_path / "out", max_rejected=0.2)
    obstacle.rmdir()
    make(path, tmp_path / "out", max_rejected=0.2)
    make(path, tmp_path / "straight", max_rejected=0.2)
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")
    assert [rejection["line"] for rejection in rejections(tmp_path / "out")] == [5]


def test_rejections_of_a_dataset_that_was_replaced_are_gone(tmp_path):
    _faulty(tmp_path)
    path = write_lines(tmp_path, [GOOD, {"audio_path": "gone.wav"}])
    make(path, tmp_path / "out", max_rejected=0.5)
    assert (tmp_path / "out" / "rejected.jsonl").exists()
    make(write_lines(tmp_path, [GOOD]), tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


def test_all_that_is_too_much_is_listed_beside_a_whole_dataset(tmp_path, caplog):
    _faulty(tmp_path)
    gone = [{"audio_path": f"gone{number}.wav"} for number in range(30)]
    path = write_lines(tmp_path, [GOOD, *gone])
    for _ in range(2):  # made, and found complete
        with pytest.raises(AnnotationError, match="30 of 31") as error:
            make(path, tmp_path / "out", max_rejected=0.5)
        assert f"{tmp_path}/out/rejected.jsonl lists them all" in str(error.value)
        assert [one["line"] for one in rejections(tmp_path / "out")] == list(range(2, 32))
    assert len(samples(tmp_path / "out")) == 1
    assert not any(one.faults for one in verify(str(tmp_path / "out"), workers=0, progress=False))
    assert not [name for name in tree(tmp_path / "out") if name.startswith("build")]


@pytest.mark.parametrize("split", [{}, {"a": 0.5, "b": 0.5}])
def test_a_dataset_is_not_replaced_by_what_is_left_of_another(tmp_path, split):
    _faulty(tmp_path)
    make(write_lines(tmp_path, [GOOD]), tmp_path / "out")
    before = tree(tmp_path / "out")
    record(tmp_path / "other.wav", 2)
    lines = [GOOD, GOOD | {"audio_path": "other.wav"}, {"audio_path": "gone.wav"}]
    path = write_lines(tmp_path, lines)
    with pytest.raises(AnnotationError, match="1 of 3"):
        make(path, tmp_path / "out", options=Options(split=split), overwrite=True)
    assert tree(tmp_path / "out") == before


def test_a_dataset_of_nothing_is_an_error_that_lists_why(tmp_path):
    _broken_off(tmp_path / "b.wav")
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps({"audio_path": "b.flac"}) + "\n")
    with pytest.raises(AnnotationError, match="none of its annotations"):
        make(path, tmp_path / "out", max_rejected=1.0)
    assert [one["line"] for one in rejections(tmp_path / "out")] == [1]
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- elsewhere


def test_a_dataset_may_go_to_any_fsspec_url(corpus, dataset):
    url = "memory://bucket/set"
    (manifest,) = make(corpus, url)
    files = fsspec.filesystem("memory")
    names = [str(name).rpartition("/")[2] for name in files.ls("/bucket/set", detail=False)]
    assert {name: files.cat_file(f"/bucket/set/{name}") for name in names} == tree(dataset)
    (again,) = build(corpus, url, options=SMALL, workers=0, progress=False)
    assert (again.made, again.manifest) == (False, manifest)
    with pytest.raises(ManifestError, match="--overwrite"):
        make(corpus, url, options=Options())
    files.rm("/bucket", recursive=True)


def test_splits_do_not_depend_on_where_the_corpus_lies(tmp_path):
    """Also without --group-by, where the recording's path decides."""
    import shutil

    import corpus

    first, second = tmp_path / "here", tmp_path / "some" / "where" / "else"
    corpus.write_annotations(first, samples=20, midi=False)
    shutil.copytree(first, second)
    options = Options(sample_rate=corpus.SAMPLE_RATE, split={"train": 0.7, "val": 0.3})
    found = []
    for folder in (first, second):
        path = folder / "annotations.jsonl"
        built = build(path, str(folder / "out"), options=options, workers=0, progress=False)
        found.append([one.manifest for one in built])
    assert found[0] == found[1]


def test_nothing_is_packed_into_a_package(tmp_path):
    import corpus

    path = corpus.write_annotations(tmp_path, samples=1)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "__init__.py").touch()
    options = Options(sample_rate=corpus.SAMPLE_RATE, split={"train": 1.0})
    with pytest.raises(ManifestError, match="is a Python package"):
        build(path, str(tmp_path / "shards"), options=options, workers=0, progress=False)
    assert [one.name for one in (tmp_path / "shards").iterdir()] == ["__init__.py"]


def test_sources_of_other_content_are_another_dataset(tmp_path):
    import corpus

    path = corpus.write_annotations(tmp_path, samples=3)
    options = Options(sample_rate=corpus.SAMPLE_RATE)
    out = str(tmp_path / "out")
    build(path, out, options=options, workers=0, progress=False)
    corpus.write_sound(tmp_path / "audio/0001.wav", seconds=2.0)
    with pytest.raises(ManifestError, match="other annotations"):
        build(path, out, options=options, workers=0, progress=False)


def test_a_group_of_another_plan_is_made_anew(tmp_path):
    """Another codec version measures other sizes, so that groups are cut elsewhere."""
    import corpus

    path = corpus.write_annotations(tmp_path, samples=20, midi=False)
    options = Options(sample_rate=corpus.SAMPLE_RATE, group_bytes=60_000, shard_bytes=30_000)
    (one,) = build(path, str(tmp_path / "a"), options=options, workers=0, progress=False)
    out = tmp_path / "b"
    build(path, str(out), options=options, workers=0, progress=False)
    (out / "manifest.json").unlink()
    first = {"shards": [], "durations": {}, "rejected": {}}
    (out / "build-group-00000.json").write_text(json.dumps(first))
    identity = {"name": one.manifest.name, "options": dict(one.manifest.options)}
    (out / "build.json").write_text(json.dumps(identity))
    (two,) = build(path, str(out), options=options, workers=0, progress=False)
    assert two.manifest == one.manifest


def test_a_corpus_of_which_nothing_is_left_is_an_error(tmp_path):
    path = tmp_path / "annotations.jsonl"
    path.write_text(json.dumps({"audio_path": "gone.wav"}) + "\n")
    with pytest.raises(AnnotationError, match="none of its annotations"):
        build(path, str(tmp_path / "out"), max_rejected=1.0, progress=False)
    assert not (tmp_path / "out").exists()


def test_shards_of_segments_are_planned_with_the_share_of_their_midi(tmp_path):
    """A long MIDI file is not charged to each of its segments."""
    import corpus

    corpus.write_sound(tmp_path / "a.wav", seconds=60)
    corpus.write_midi(tmp_path / "a.mid", onsets=np.arange(0, 60, 0.02))
    lines = [
        {"audio_path": "a.wav", "midi_path": "a.mid", "start_time": float(s), "end_time": s + 1.0}
        for s in range(59)
    ]
    path = tmp_path / "annotations.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    options = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=200_000)
    (built,) = build(path, str(tmp_path / "out"), options=options, workers=0, progress=False)
    sizes = [shard.filesize for shard in built.manifest.shards]
    assert 0.75 * 200_000 < sum(sizes) / len(sizes) < 1.25 * 200_000


@pytest.mark.parametrize(
    "shares", [{"a": 0.8, "b": 0.3}, {"a": 0.8, "b": 0.1}, {"a": 1.5, "b": 0.5}]
)
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    with pytest.raises(ValueError, match="sum to"):
        Options(split=shares)
