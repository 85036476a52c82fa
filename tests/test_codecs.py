"""packer.encode: whatever the codec, a member decodes to what was cut, and to the same bytes."""

import io
import json
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from corpus import write_midi
from hypothesis import given
from hypothesis import strategies as st

import packer.encode
import packer.recording
from loader import make_pipeline
from loader.tokens import octuple
from packer.audio import CODECS
from packer.build import build
from packer.encode import shares
from packer.inputs import rules_for
from packer.ogg import checksum
from packer.options import Options
from packer.preview import plan
from packer.recording import Level, OpenRecording
from packer.table import to_float32
from packer.verify import verify
from shards.errors import AnnotationError, DecodeError
from shards.faults import Kind
from shards.manifest import load_manifest
from shards.notes import read_notes
from shards.pcm import to_int16
from shards.reader import ShardReader

RATE = 24000
CLIP_S = 1.5
LOSSY = ("ogg", "opus", "mp3")


def music(seconds: float, rate: int, *, seed: int = 0, channels: int = 1) -> np.ndarray:
    """(frames, channels): struck tones below 4 kHz, no two alike, so that a shift is heard."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    sound = np.zeros((len(times), channels))
    for start in np.arange(0, seconds, 0.11):
        since = np.maximum(times - start, 0)
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * since) * np.exp(-8 * since)
        sound += 0.2 * tone[:, None] * rng.uniform(0, 1, channels)
    return sound


def write_corpus(folder: Path, *, channels: int = 2, rate: int = 44100) -> Path:
    """Two recordings of three clips each, with MIDI."""
    lines = []
    for number in range(2):
        sound = music(3 * CLIP_S, rate, seed=number, channels=channels)
        soundfile.write(folder / f"{number}.wav", sound, rate)
        write_midi(folder / f"{number}.mid", onsets=np.arange(0, 4, 0.31))
        for clip in range(3):
            times = {"start_time": clip * CLIP_S, "end_time": (clip + 1) * CLIP_S}
            paths = {"audio_path": f"{number}.wav", "midi_path": f"{number}.mid"}
            lines.append(json.dumps(paths | times))
    (folder / "a.jsonl").write_text("\n".join(lines))
    return folder / "a.jsonl"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def make(annotations: Path, out: Path, **options: object) -> Path:
    chosen = {"workers": 0, "progress": False, **options.pop("build", {})}
    build(annotations, str(out), options=Options(**options), **chosen)
    return out


def samples(dataset: Path) -> dict[str, dict[str, bytes]]:
    """Bytes by key and extension."""
    found = {}
    for tar in sorted(dataset.glob("*.tar")):
        with ShardReader(tar) as reader:
            for row in range(len(reader)):
                found[reader.members(row)[0].key] = reader.read(row)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mono_cut(path: Path, start_s: float, *, seconds: float = CLIP_S) -> np.ndarray:
    """(frames,) of a recording, all at once."""
    whole, rate = soundfile.read(path, always_2d=True)
    cut = whole[round(start_s * rate) : round((start_s + seconds) * rate)].mean(axis=1)
    return soxr.resample(cut, rate, RATE, quality="VHQ")


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()))


# --- reading in blocks


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("seconds", [0.01, 0.3337, 3.0])
def test_resampling_in_blocks_is_resampling_at_once(tmp_path, monkeypatch, rate, seconds):
    monkeypatch.setattr(packer.recording, "BLOCK", 1000)
    sound = music(seconds, rate).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", sound, rate, subtype="FLOAT")
    with OpenRecording(tmp_path / "x.wav") as recording:
        blocks = recording.segment(start_s=0, end_s=None, sample_rate=RATE, channels=1)
        found = np.concatenate(list(blocks))
    expected = to_int16(soxr.resample(sound, rate, RATE))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("recorded", [1, 2, 3])
def test_16_bits_are_read_as_they_would_be_as_floats(tmp_path, recorded, channels):
    rng = np.random.default_rng(recorded)
    sound = rng.integers(-32768, 32768, (5000, recorded)).astype(np.int16)
    sound[1000:1004, 0] = [32767, -32768, -32767, 32767]
    soundfile.write(tmp_path / "short.wav", sound, 44100, subtype="PCM_16")
    soundfile.write(tmp_path / "float.wav", sound / 32768, 44100, subtype="FLOAT")
    found = []
    for name in ("short.wav", "float.wav"):
        level = Level()
        with OpenRecording(tmp_path / name) as recording:
            span = {"start_s": 0.01, "end_s": 0.1, "sample_rate": RATE}
            blocks = recording.segment(**span, channels=channels, level=level)
            found.append((np.concatenate(list(blocks)).tobytes(), level))
    assert found[0] == found[1]
    assert found[0][1].longest >= 4


@pytest.mark.parametrize("codec", ["flac", *LOSSY])
def test_blocks_and_jobs_leave_no_trace(corpus, tmp_path, monkeypatch, codec):
    make(corpus, tmp_path / "one", audio=codec)
    monkeypatch.setattr(packer.recording, "BLOCK", 777)
    monkeypatch.setattr(packer.encode, "JOB_S", 2.0)
    monkeypatch.setattr(packer.encode, "_IN_MEMORY_BYTES", 1000)
    make(corpus, tmp_path / "two", audio=codec)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_long_recording_is_never_in_memory(tmp_path):
    """Two minutes as float32 stereo are 92 MB."""
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 96000, 2, subtype="PCM_24") as file:
        for second in range(120):
            file.write(0.1 * np.random.default_rng(second).standard_normal((96000, 2)))
    line = {"audio_path": "long.wav"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    tracemalloc.start()
    make(tmp_path / "a.jsonl", tmp_path / "out", audio="npy", sample_rate=8000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    ((_, files),) = samples(tmp_path / "out").items()
    assert np.load(io.BytesIO(files["audio.npy"])).shape == (120 * 8000,)


@pytest.mark.parametrize("extension", ["flac", "mp3", "ogg"])
def test_a_segment_is_part_of_the_whole(tmp_path, monkeypatch, extension):
    """Also where a decoder goes by what came before, as MP3's does."""
    monkeypatch.setattr(packer.recording, "BLOCK", 5000)
    path = tmp_path / f"x.{extension}"
    soundfile.write(path, music(12, RATE), RATE)
    whole = soundfile.read(path, dtype="float32")[0]
    with OpenRecording(path) as recording:
        for start in (1.5, 9.9, 3.0, 4.2, 5.2):
            span = {"start_s": start, "end_s": start + 1.0}
            blocks = recording.segment(**span, sample_rate=RATE, channels=1)
            found = np.concatenate(list(blocks))[:, 0]
            expected = to_int16(whole[round(start * RATE) :][:RATE])
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_long_recording_is_many_jobs():
    seconds = [10.0] * 100 + [5000.0] + [200.0] * 3
    parts = shares(range(104), seconds)
    assert [index for part in parts for index in part] == list(range(104))
    assert [len(part) for part in parts] == [30, 30, 30, 10, 1, 1, 1, 1]


# --- codecs


@pytest.mark.parametrize("codec", CODECS)
def test_windows_of_every_codec_are_those_of_the_recording(corpus, tmp_path, codec):
    """Read back through the loader, whole and from the middle."""
    dataset = make(corpus, tmp_path / "out", audio=codec)
    (checked,) = verify(str(dataset), workers=0, progress=False)
    assert (checked.samples, checked.faults) == (6, ())
    extension = CODECS[codec].extension
    meta = {key: json.loads(files["json"]) for key, files in samples(dataset).items()}
    assert {record["frames"] for record in meta.values()} == {round(CLIP_S * RATE)}
    assert all(extension in files for files in samples(dataset).values())
    for crop, seconds, offset in (("start", CLIP_S, 0.0), ("center", 0.5, 0.5)):
        options = {"clip_seconds": seconds, "crop": crop, "batch_size": 1, "cache": "off"}
        with make_pipeline(dataset, **options) as pipe:
            for batch in pipe:
                record = meta[batch["__key__"][0]]
                start = record["start_time"] + offset
                whole = mono_cut(corpus.parent / record["audio_path"], record["start_time"])
                first = round(offset * RATE)
                expected = whole[first : first + round(seconds * RATE)]
                assert batch["audio_frames"].tolist() == [len(expected)], start
                audio = batch["audio"][0].numpy()
                inside = slice(RATE // 20, -RATE // 20)
                earlier, level, later = (
                    decibels(np.roll(audio, shift)[inside], expected[inside])
                    for shift in (-1, 0, 1)
                )
                assert level > max(earlier, later), "a frame too early or too late"
                assert level > (8 if codec in LOSSY else 60)


@pytest.mark.parametrize("codec", LOSSY)
def test_a_process_of_its_own_makes_the_same_bytes(corpus, tmp_path, codec):
    make(corpus, tmp_path / "here", audio=codec)
    script = (
        "import sys; from pathlib import Path; from packer.build import build; "
        "from packer.options import Options; build(Path(sys.argv[1]), sys.argv[2], "
        "options=Options(audio=sys.argv[3]), workers=0, progress=False)"
    )
    command = [sys.executable, "-c", script, str(corpus), str(tmp_path / "there"), codec]
    subprocess.run(command, check=True)
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


def test_ogg_streams_have_serials_of_their_own_and_checksums_that_hold(corpus, tmp_path):
    serials = set()
    for files in samples(make(corpus, tmp_path / "out", audio="opus")).values():
        data, at = files["opus"], 0
        while at < len(data):
            size = 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
            page = data[at : at + size]
            assert int.from_bytes(page[22:26], "little") == bitwise_crc(
                page[:22] + bytes(4) + page[26:]
            )
            serials.add(page[14:18])
            at += size
    assert len(serials) == 6


def bitwise_crc(data: bytes) -> int:
    register = 0
    for byte in data:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register >> 31 else 0)
            register &= 0xFFFFFFFF
    return register


@given(st.binary(max_size=300))
def test_the_checksum_is_ogg_s(data):
    assert checksum(data) == bitwise_crc(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": "opus", "sample_rate": 44100}, "one of 48000, 24000, 16000, 12000, 8000, got"),
        ({"audio": "mp3", "sample_rate": 24001}, "sample_rate of mp3 must be one of 48000"),
        (
            {"audio": "ogg", "sample_rate": 384_000},
            "sample_rate of ogg must be from 8000 to 192000",
        ),
        ({"sample_rate": 100}, "sample_rate of flac must be from 1000 to 655350, got 100"),
        ({"audio": "npy", "sample_rate": 999}, "sample_rate of npy must be from 1000"),
        ({"sample_rate": math.nan}, "sample_rate must be positive and finite, got nan"),
        ({"shard_bytes": math.inf}, "shard_bytes must be positive and finite, got inf"),
        ({"split": {"a": math.nan}}, "shares of splits must be positive and finite"),
        ({"audio": "npy", "channels": 2}, "channels of npy must be 1, got 2"),
        ({"audio": "copy", "channels": 2}, "leave channels out"),
        ({"channels": 3}, "channels must be 1 or 2, got 3"),
        ({"audio": "aac"}, "audio must be one of flac, wav, ogg, opus, mp3, npy, copy, got 'aac'"),
        ({"midi": "xml"}, "midi must be one of mid, notes, got 'xml'"),
    ],
)
def test_what_a_codec_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


# --- channels


def test_stereo_is_kept_and_mono_doubled(tmp_path):
    stereo = np.round(music(1, RATE, channels=2) * 32768) / 32768
    soundfile.write(tmp_path / "two.wav", stereo, RATE)
    soundfile.write(tmp_path / "one.wav", stereo[:, 0], RATE)
    soundfile.write(tmp_path / "three.wav", stereo[:, [0, 0, 0]], RATE)
    lines = [json.dumps({"audio_path": f"{name}.wav"}) for name in ("one", "two", "three")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    dataset = make(tmp_path / "a.jsonl", tmp_path / "out", channels=2)
    decoded = {k: soundfile.read(io.BytesIO(f["flac"]))[0] for k, f in samples(dataset).items()}
    assert np.array_equal(decoded["two"], stereo)
    assert np.array_equal(decoded["one"], stereo[:, [0, 0]])
    assert np.abs(decoded["three"] - stereo[:, [0, 0]]).max() <= 1 / 32768
    with make_pipeline(dataset, clip_seconds=1.0, batch_size=1, cache="off") as pipe:
        mixed = pipe["two"]["audio"]
    assert np.abs(np.asarray(mixed) - stereo.mean(axis=1)).max() <= 1 / 32768


# --- copies


def write_sources(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        sound = music(1, RATE, seed=number, channels=2)
        kind = {"opus": {"format": "OGG", "subtype": "OPUS"}}.get(
            name.rpartition(".")[2].lower(), {}
        )
        soundfile.write(folder / name, sound, RATE, **kind)
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"audio_path": n}) for n in names))
    return folder / "a.jsonl"


@pytest.mark.parametrize("extension", ["flac", "wav", "mp3", "ogg", "opus"])
def test_a_copy_is_the_recording_to_the_byte(tmp_path, extension):
    names = [f"0.{extension}", f"1.{extension.upper()}"]
    annotations = write_sources(tmp_path, *names)
    dataset = make(annotations, tmp_path / "out", audio="copy", sample_rate=8000)
    found = samples(dataset)
    assert {f[extension] for f in found.values()} == {(tmp_path / n).read_bytes() for n in names}
    for files in found.values():
        meta = json.loads(files["json"])
        assert (meta["sample_rate"], meta["frames"], meta["duration"]) == (RATE, RATE, 1.0)
    manifest = load_manifest((dataset / "manifest.json").read_bytes(), name="")
    assert manifest.fields == {"audio": extension}
    with make_pipeline(dataset, clip_seconds=1.0, batch_size=2, cache="off") as pipe:
        (batch,) = pipe
    assert batch["audio_frames"].tolist() == [RATE, RATE]
    (checked,) = verify(str(dataset), workers=0, progress=False)
    assert not checked.faults


def test_a_recording_of_a_rate_that_no_loader_reads_is_not_copied(tmp_path):
    annotations = write_sources(tmp_path, "0.wav", "1.wav")
    soundfile.write(tmp_path / "1.wav", music(1, 100), 100)
    dataset = make(annotations, tmp_path / "out", audio="copy", build={"max_rejected": 0.5})
    assert sorted(samples(dataset)) == ["0"]
    (left_out,) = map(json.loads, (dataset / "rejected.jsonl").read_text().splitlines())
    assert "1.wav: is at 100 Hz; 1000 to 1000000 are read" in left_out["reason"]
    assert left_out["kind"] == Kind.NOT_COPYABLE


def test_what_cannot_be_copied_is_named_with_its_reason(tmp_path):
    annotations = write_sources(tmp_path, "0.flac", "1.flac", "2.mp3", "3.aiff")
    segment = {"audio_path": "1.flac", "start_time": 0.2}
    annotations.write_text(annotations.read_text() + "\n" + json.dumps(segment))
    planned = plan(
        annotations, rules_for(annotations), options=Options(audio="copy"), progress=False
    )
    assert {(one.line, one.kind) for one in planned.rejected} == {
        (line, Kind.NOT_COPYABLE) for line in (3, 4, 5)
    }
    with pytest.raises(AnnotationError) as error:
        make(annotations, tmp_path / "out", audio="copy")
    assert "2.mp3: is no .flac as most of the recordings are" in str(error.value)
    assert "3.aiff: only flac, wav, mp3, ogg, opus can be copied" in str(error.value)
    assert "1.flac: a segment cannot be copied" in str(error.value)
    dataset = make(annotations, tmp_path / "out", audio="copy", build={"max_rejected": 0.6})
    assert sorted(samples(dataset)) == ["0", "1"]


# --- loudness


def test_silence_is_rejected(tmp_path):
    sound = music(3, RATE)
    sound[RATE : 2 * RATE] = 1.2 / 32768  # rounds to one step: -90 dBFS
    sound[2 * RATE :] = 2 / 32768
    soundfile.write(tmp_path / "x.wav", sound, RATE)
    lines = [
        json.dumps({"audio_path": "x.wav", "start_time": n, "end_time": n + 1}) for n in range(3)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(AnnotationError, match=r"x\.wav: silent from 1\.000 to 2\.000 s") as error:
        make(tmp_path / "a.jsonl", tmp_path / "out")
    assert str(error.value).startswith("1 of 3")


def test_clipping_is_told_once_and_packed(tmp_path, caplog):
    for number, gain in enumerate([1.0, 9.0, 9.0]):
        soundfile.write(tmp_path / f"{number}.wav", gain * music(1, RATE, seed=number), RATE)
    lines = [json.dumps({"audio_path": f"{n}.wav"}) for n in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert len(samples(make(tmp_path / "a.jsonl", tmp_path / "out"))) == 3
    (told,) = [record.message for record in caplog.records if "clip" in record.message]
    assert told.startswith("2 samples clip")
    assert "line 2" in told


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("full", "longest"),
    [([], 0), ([3], 1), ([3, 4, 5], 3), ([0, 1, 4, 5, 6, 7, 19], 4), (list(range(20)), 20)],
)
def test_runs_at_full_scale_go_on_from_block_to_block(block, full, longest):
    sound = np.zeros((20, 2), np.float32)
    sound[full, 1] = -1.0
    level = Level()
    assert all(level.hear(sound[start : start + block]) for start in range(0, 20, block))
    assert (level.frames, level.full, level.longest) == (20, len(full), longest)
    assert not level.hear(np.array([[np.nan, 0.0]], np.float32))


# --- tables of notes


def test_tables_give_the_tokens_that_the_midi_gives(corpus, tmp_path):
    dataset = make(corpus, tmp_path / "out", midi="notes")
    manifest = load_manifest((dataset / "manifest.json").read_bytes(), name="")
    assert manifest.fields == {"audio": "flac", "midi": "mid", "notes": "notes.npy"}
    for files in samples(dataset).values():
        assert list(files) == ["flac", "json", "mid", "notes.npy"]
        table = np.load(io.BytesIO(files["notes.npy"]))
        assert table.dtype == np.float32
        exact = read_notes(files["mid"], beat=json.loads(files["json"])["midi_beat"]).table
        assert np.array_equal(octuple(table.astype(np.float64)), octuple(exact))
    with make_pipeline(dataset, clip_seconds=CLIP_S, batch_size=1, cache="off") as pipe:
        assert {int(batch["midi_notes"][0]) for batch in pipe} <= {4, 5, 6}
    (checked,) = verify(str(dataset), workers=0, progress=False)
    assert not checked.faults


def test_notes_on_the_edges_of_tokens_stay_on_their_side():
    edges = np.arange(1, 250) / 200
    durations = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 9)])
    exact = np.full((len(durations), 6), 64.0)
    exact[:, 1], exact[:, 5] = durations, np.nextafter(np.arange(len(durations)) % 64 / 16, 0)
    exact[:, 5] = np.maximum(exact[:, 5], 0)
    assert (
        np.any(octuple(exact.astype(np.float32).astype(np.float64)) != octuple(exact), axis=1).sum()
        > 99
    )
    assert np.array_equal(octuple(to_float32(exact).astype(np.float64)), octuple(exact))


@given(
    st.floats(0, 2000, allow_subnormal=False),
    st.floats(1e-5, 3, allow_subnormal=False),
    st.floats(0, 15.999999999, allow_subnormal=False),
)
def test_any_note_keeps_its_tokens(onset, duration, beat):
    exact = np.array([[onset, duration, 60, 64, 3, beat]])
    packed = to_float32(exact)
    assert np.array_equal(octuple(packed.astype(np.float64)), octuple(exact))
    assert np.allclose(packed, exact, rtol=1e-6, atol=1e-6)


def test_a_recording_that_is_no_recording_is_a_decode_error(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    with (
        OpenRecording(tmp_path / "x.wav") as recording,
        pytest.raises(DecodeError, match=r"x\.wav"),
    ):
        assert recording.sample_rate
