"""Audio and MIDI that are damaged, odd or made to hurt: named or counted, within bounds."""

import json
import struct
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import corpus
import numpy as np
import pytest
import soundfile

from loader import make_pipeline
from loader.audio import decode_whole, decode_window, duration_s
from packer.__main__ import main as packer
from packer.ogg import renumbered
from shards.errors import DecodeError, ShardError
from shards.index import index_bytes
from shards.notes import read_notes
from shards.npy import npy_bytes
from shards.reader import ShardReader
from shards.tar import END_OF_ARCHIVE, sample_bytes

HERE = Path(__file__).parent
RATE = 24000
FORMATS = {
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}
# what a process may need beside the interpreter and its libraries, however a file lies
MEMORY_BYTES = 1 << 30
FRAMES = RATE // 2  # of a file here


def sound(extension: str, *, seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> bytes:
    times = np.arange(round(seconds * rate)) / rate
    waves = [0.3 * np.sin(2 * np.pi * 220 * (n + 1) * times) for n in range(channels)]
    target = BytesIO()
    soundfile.write(target, np.stack(waves, axis=1), rate, **FORMATS[extension])
    return target.getvalue()


def vlq(number: int) -> bytes:
    parts = [number & 0x7F]
    while number := number >> 7:
        parts.append(0x80 | number & 0x7F)
    return bytes(reversed(parts))


def on(delta: int, pitch: int, velocity: int = 64) -> bytes:
    return vlq(delta) + bytes([0x90, pitch, velocity])


def off(delta: int, pitch: int) -> bytes:
    return vlq(delta) + bytes([0x80, pitch, 0])


def midi(*tracks: bytes, kind: int = 1, division: int = 480) -> bytes:
    chunks = [track + b"\x00\xff\x2f\x00" for track in tracks]
    head = b"MThd" + struct.pack(">IHHH", 6, kind, len(tracks), division)
    return head + b"".join(b"MTrk" + struct.pack(">I", len(chunk)) + chunk for chunk in chunks)


SCALE = b"".join(on(0, 60 + n) + off(240, 60 + n) for n in range(8))


def put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def lying_headers() -> dict[str, tuple[str, bytes]]:
    """Files whose headers claim what they do not hold."""
    wav, flac, ogg = sound("wav"), sound("flac"), sound("ogg")
    rate_bits, most = int.from_bytes(flac[18:26], "big"), (1 << 36) - 1
    some = rate_bits & ~most | 500 * len(flac)
    last_page = ogg.rindex(b"OggS")
    huge_page = put(ogg[last_page:], 6, struct.pack("<Q", 2**62))
    checked = renumbered(huge_page, int.from_bytes(huge_page[14:18], "little"))
    au = b".snd" + struct.pack(">5I", 24, len(wav) - 44, 3, RATE, 10**6) + wav[44:]
    return {
        "wav of 2^31 frames": ("wav", put(wav, 40, struct.pack("<I", 2**32 - 2))),
        "wav that is cut off": ("wav", wav[:20_000]),
        "wav of 254 channels": ("wav", put(put(wav, 22, b"\xfe\0"), 32, b"\xfc\1")),
        "wav of 65535 channels": ("wav", put(wav, 22, struct.pack("<H", 65535))),
        "wav of a million channels' bytes": ("wav", put(wav, 32, struct.pack("<H", 65535))),
        "wav of 1 Hz": ("wav", put(wav, 24, struct.pack("<I", 1))),
        "wav of 4 GHz": ("wav", put(wav, 24, struct.pack("<I", 2**32 - 1))),
        "wav of 0 Hz": ("wav", put(wav, 24, struct.pack("<I", 0))),
        "wav of no frame": ("wav", put(wav[:44], 40, bytes(4))),
        "au of a million channels, named wav": ("wav", au),
        "flac of 500 frames a byte": ("flac", put(flac, 18, some.to_bytes(8, "big"))),
        "flac of 2^36 frames": ("flac", put(flac, 18, (rate_bits | most).to_bytes(8, "big"))),
        "flac of 0 Hz": ("flac", put(flac, 18, bytes(3))),
        "ogg that is cut off": ("ogg", ogg[:-100]),
        "ogg of 2^62 frames": ("ogg", ogg[:last_page] + checked),
        "ogg of 2^62 frames, unchecked": ("ogg", ogg[:last_page] + huge_page),
        "npy of 2^40 frames": ("audio.npy", npy_claiming(2**40)),
        "midi of 65535 tracks": ("mid", put(midi(SCALE), 10, b"\xff\xff")),
        "midi of a track of 4 GB": ("mid", put(midi(SCALE), 18, b"\xff\xff\xff\xff")),
        "empty": ("flac", b""),
        "midi named flac": ("flac", midi(SCALE)),
        "text named mp3": ("mp3", b"no sound at all" * 100),
        "zeros named wav": ("wav", bytes(100_000)),
        "flac named mid": ("mid", flac),
    }


def npy_claiming(frames: int) -> bytes:
    target = BytesIO()
    claim = {"descr": "<i2", "fortran_order": False, "shape": (frames,)}
    np.lib.format.write_array_header_1_0(target, claim)
    return target.getvalue() + bytes(20)


def tar_of(samples: list[tuple[str, bytes]]) -> bytes:
    """A tar of samples with audio and MIDI, one of which is the one given."""
    good = {"flac": sound("flac"), "mid": midi(SCALE)}
    blocks = []
    for number, (extension, data) in enumerate(samples):
        kind = "mid" if extension == "mid" else "flac"
        members = {("mid" if n == "mid" else n): d for n, d in good.items() if n != kind}
        blocks.append(sample_bytes(f"k{number:04d}", {extension: data, **members}))
    return b"".join(blocks) + END_OF_ARCHIVE


STREAM = """
import json, resource, sys, time
from loader import make_pipeline
tasks, folder, limit = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
for tar, clip in tasks:
    began, shapes, weight, samples = time.perf_counter(), set(), 0, 0
    with make_pipeline(tar, cache="off", cache_dir=folder, batch_size=8, shuffle=0, num_workers=2,
                       clip_seconds=clip, max_notes=8, on_error="skip", max_error_rate=1.0,
                       drop_last=False) as pipe:
        for batch in pipe:
            weight += int(batch["weight"].sum())
            samples += sum(bool(key) for key in batch["__key__"])
            shape = (tuple(batch["midi"].shape), batch["audio"].shape[0], str(batch["audio"].dtype))
            shapes.add(shape)
            assert batch["audio"].isfinite().all() and batch["audio"].abs().max() <= 1
        skipped = pipe.stats()["skipped"]
    print(json.dumps({"weight": weight, "samples": samples, "skipped": skipped,
                      "shapes": len(shapes), "seconds": time.perf_counter() - began}))
"""


def stream_in_a_process(folder: Path, tasks: list[tuple[Path, float | None]]) -> list[dict]:
    """What a process of bounded memory makes of tars, with damaged samples skipped.

    Args:
        tasks: tars, and ``clip_seconds`` to read each with.
    """
    told = json.dumps([(str(tar), clip) for tar, clip in tasks])
    command = [sys.executable, "-c", STREAM, told, str(folder), str(MEMORY_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def mutated() -> list[tuple[str, bytes]]:
    """Bits flipped, ends cut, names changed, headers that lie: of every format."""
    dice, samples = np.random.default_rng(0), list(lying_headers().values())
    files = {extension: sound(extension) for extension in FORMATS}
    files |= {"audio.npy": npy_bytes(np.zeros(RATE // 2, np.int16)), "mid": midi(SCALE, SCALE)}
    for extension, data in files.items():
        for _ in range(24):
            changed = bytearray(data)
            for bit in dice.integers(0, 8 * len(data), dice.integers(1, 6)):
                changed[bit // 8] ^= 1 << bit % 8
            samples.append((extension, bytes(changed)))
        samples += [(extension, data[: dice.integers(0, len(data))]) for _ in range(12)]
        samples += [(other, data) for other in files]
    return samples


# of half a second of FLAC; each is unbelievable in one way alone
JSON_CLAIMS = [
    {"sample_rate": RATE, "frames": 2**39},
    {"sample_rate": 1, "frames": FRAMES},
    {"sample_rate": 10**7, "frames": FRAMES},
    {"sample_rate": 1, "frames": 2**39, "duration": 1e15},
]
MUTATED = 325  # files


def test_whatever_files_hold_they_are_skipped_and_counted_within_bounds(tmp_path):
    """In a process of its own, which may not crash, with windows and with whole samples.

    A JSON that lies about the length would ask for rows of any size.
    """
    samples = mutated()
    assert len(samples) == MUTATED
    (tmp_path / "mutated.tar").write_bytes(tar_of(samples))
    tasks = [(tmp_path / "mutated.tar", 0.5), (tmp_path / "mutated.tar", None)]
    for number, claims in enumerate(JSON_CLAIMS):
        members = {"json": json.dumps(claims).encode(), "flac": sound("flac"), "mid": midi(SCALE)}
        lying = b"".join(sample_bytes(f"k{n}", members) for n in range(8)) + END_OF_ARCHIVE
        (tmp_path / f"lying-{number}.tar").write_bytes(lying)
        tasks.append((tmp_path / f"lying-{number}.tar", None))
    told = stream_in_a_process(tmp_path, tasks)
    for one in told[:2]:
        assert one["samples"] == MUTATED
        assert one["weight"] + one["skipped"] == MUTATED
        assert len(lying_headers()) < one["skipped"] < MUTATED
        assert one["shapes"] == 1
        assert one["seconds"] < 60  # it takes one, unless something has no bound
    assert [one["skipped"] for one in told[2:]] == [8] * len(JSON_CLAIMS)


# decoders take such sizes as those of a stream, or count, and read what is there
HARMLESS = {
    "wav of 2^31 frames",
    "wav of a million channels' bytes",
    "flac of 2^36 frames",
    "ogg of 2^62 frames",
}
WHOLE_ALONE = {"flac of 500 frames a byte"}  # a window of what is there is read
CLAIMS = sorted(name for name, (kind, data) in lying_headers().items() if kind != "mid")


@pytest.mark.parametrize("name", sorted(lying_headers().keys() - HARMLESS - WHOLE_ALONE))
def test_a_file_that_lies_is_named(tmp_path, name):
    (tmp_path / "a.tar").write_bytes(tar_of([lying_headers()[name]]))
    with make_pipeline(tmp_path / "a.tar", cache="off", batch_size=1, clip_seconds=0.5) as pipe:
        with pytest.raises(DecodeError, match=r"a\.tar: sample 'k0000': "):
            next(iter(pipe))


@pytest.mark.parametrize("name", CLAIMS)
def test_of_what_a_header_claims_no_memory_is_taken(name):
    """It is refused, or as much is read as there is; a window, too, is of what there is.

    Memory of Python and numpy is counted. What decoders take themselves is not: it is bounded by
    ``MEMORY_BYTES``, in the process above that reads these files, too.
    """
    extension, data = lying_headers()[name]
    found = []
    tracemalloc.start()
    try:
        with suppress(DecodeError):
            found.append(len(decode_whole(data, extension, sample_rate=RATE)))
        with suppress(DecodeError):
            found.append(round(RATE * duration_s(data, extension, stored_rate=RATE)))
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 1 << 20
    # libsndfile ends Vorbis with a block, where its last page does not say
    assert all(FRAMES <= frames < FRAMES + 256 for frames in found)
    assert len(found) == (2 if name in HARMLESS else 0)


HELD = """
import gc
from loader.audio import decode_window
from shards.errors import DecodeError
from test_faults_members import RATE, lying_headers, np

def fail(data, extension):
    try:
        decode_window(data, extension, np.empty(RATE, "f4"), sample_rate=RATE, at_least=60.0)
    except DecodeError as error:
        held = error  # which holds this frame

gc.disable()  # or a collection in between may meet the parts in another order
for extension, data in lying_headers().values():
    fail(memoryview(data), extension)
    gc.collect()
print("alive")
"""


def test_an_error_that_holds_itself_is_collected_without_a_crash():
    """In a process of its own: a memoryview that is lent to a decoder may not be cleared."""
    done = subprocess.run(
        [sys.executable, "-c", HELD], cwd=HERE, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_a_member_that_is_larger_than_its_sample_is_not_made_room_for(tmp_path):
    """With an index, which says where the sample ends; the header claims 8 GB."""
    members = {"json": b"{}", "flac": sound("flac")}
    data = bytearray(sample_bytes("k", members))
    at = data.index(b"k.flac")
    data[at + 124 : at + 136] = b"77777777777\0"
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}\0 ".encode()
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(data) + END_OF_ARCHIVE)
    tracemalloc.start()
    try:
        with ShardReader(path, samples=1, index=index_bytes([0, len(data)])) as reader:
            with pytest.raises(ShardError, match="claims 8589934591 bytes: too many"):
                reader.read(0)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 1 << 20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_audio_that_is_not_finite_is_refused(bad, dtype):
    samples = np.zeros(RATE, np.float32)
    samples[RATE // 2] = bad
    target = BytesIO()
    soundfile.write(target, samples, RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(DecodeError, match="no finite numbers"):
        decode_window(target.getvalue(), "wav", np.empty(RATE, dtype), sample_rate=RATE)


def test_audio_that_is_not_finite_is_left_out_of_a_dataset(tmp_path):
    annotations = corpus.write_annotations(tmp_path, samples=3, seconds=0.5, midi=False)
    for number, bad in enumerate((np.nan, np.inf)):
        samples = np.zeros(4000, np.float32)
        samples[2000] = bad
        path = tmp_path / "audio" / f"{number:04d}.wav"
        soundfile.write(path, samples, corpus.SAMPLE_RATE, subtype="FLOAT")
    command = ["build", str(annotations), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert packer([*command, "--max-rejected", "100%"]) == 0
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [1, 2]
    assert all("samples that are not finite numbers" in line for line in lines)


@pytest.mark.parametrize("value", [1.5, -7.0, 3e38])
def test_audio_beyond_full_scale_is_clipped(value):
    target = BytesIO()
    soundfile.write(target, np.full(RATE, value), RATE, format="WAV", subtype="FLOAT")
    row, short = np.empty(RATE, np.float32), np.empty(RATE, np.int16)
    decode_window(target.getvalue(), "wav", row, sample_rate=RATE)
    decode_window(target.getvalue(), "wav", short, sample_rate=RATE)
    assert set(row) == {np.sign(value)}
    assert set(short) == {32767 if value > 0 else -32768}


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_every_rate_is_the_same_sound(rate):
    row, expected = np.empty(RATE // 2, np.float32), np.empty(RATE // 2, np.float32)
    assert decode_window(sound("wav", rate=rate), "wav", row, sample_rate=RATE) >= RATE // 2 - 1
    decode_window(sound("wav"), "wav", expected, sample_rate=RATE)
    assert np.abs(row - expected)[500:-500].max() < 2e-3


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_up_to_eight_channels_become_their_mean(extension, channels):
    data = sound(extension, channels=channels)
    frames, _ = soundfile.read(BytesIO(data), dtype="float32", always_2d=True)
    row = np.empty(RATE // 2, np.float32)
    decode_window(data, extension, row, sample_rate=RATE)
    assert np.allclose(row, frames.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("extension", "subtype", "step"),
    [
        *(("wav", name, step) for name, step in (("PCM_U8", 2**-7), ("PCM_16", 2**-15))),
        *(("wav", name, 2**-15) for name in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
        *(("flac", name, step) for name, step in (("PCM_S8", 2**-7), ("PCM_16", 2**-15))),
        ("flac", "PCM_24", 2**-15),
    ],
)
def test_every_depth_is_the_same_sound(extension, subtype, step):
    wave = 0.3 * np.sin(np.arange(RATE) / 20)
    target = BytesIO()
    soundfile.write(target, wave, RATE, format=extension.upper(), subtype=subtype)
    row, short = np.empty(RATE, np.float32), np.empty(RATE, np.int16)
    decode_window(target.getvalue(), extension, row, sample_rate=RATE)
    decode_window(target.getvalue(), extension, short, sample_rate=RATE)
    assert np.abs(row - wave).max() <= step
    assert np.abs(short / 32768 - wave).max() <= step


def test_silence_is_as_long_as_it_is():
    """FLAC of it has hundreds of frames a byte, as a header that lies would claim."""
    target = BytesIO()
    soundfile.write(target, np.zeros(60 * RATE, np.int16), RATE, format="FLAC")
    data = target.getvalue()
    assert duration_s(data, "flac", stored_rate=RATE) == 60.0
    assert len(decode_whole(data, "flac", sample_rate=RATE)) == 60 * RATE


NOTE = [0.0, 0.25, 60.0, 64.0]


@pytest.mark.parametrize(
    ("data", "notes", "left_out"),
    [
        (midi(b""), [], 0),
        (midi(on(0, 60) + off(240, 60)), [NOTE], 0),
        # running status: the status byte is that of the event before; velocity 0 ends a note
        (midi(b"\x00\x90\x3c\x40" + b"\x81\x70\x3c\x00"), [NOTE], 0),
        (midi(on(0, 60) + off(0, 60) + on(0, 60) + off(240, 60)), [NOTE], 1),
        # a note that never ends is none, as to everyone else's tools
        (midi(on(0, 72) + on(0, 60) + off(240, 60)), [NOTE], 0),
        # nor is the end of one that never began
        (midi(off(0, 72) + on(0, 60) + off(240, 60)), [NOTE], 0),
        (midi(on(0, 60) + off(240, 60), b"", b""), [NOTE], 0),
    ],
    ids=["none", "one", "running", "no length", "no end", "no beginning", "empty tracks"],
)
def test_odd_midi_is_defined(data, notes, left_out):
    found = read_notes(data)
    assert found.table[:, :4].tolist() == notes
    assert found.left_out == left_out


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (midi(SCALE, SCALE, kind=2), "type 2"),
        (midi(SCALE, division=0xE728), "SMPTE"),
        (midi(SCALE, division=0), "SMPTE"),
        (midi((on(0x0FFFFFFF, 60) + off(0x0FFFFFFF, 60)) * 20), r"2\^31 ticks"),
        (midi(SCALE)[:-9], "cut off"),
        (b"", "MIDI header"),
    ],
    ids=["type 2", "SMPTE", "no ticks", "ticks", "cut", "empty"],
)
def test_midi_that_cannot_be_read_is_refused(data, message):
    with pytest.raises(DecodeError, match=message):
        read_notes(data)


def test_a_million_notes_are_read_in_bounds(tmp_path):
    """The first ones of the window are the sample's."""
    events = b"".join(on(1, 60 + n % 20) + off(1, 60 + n % 20) for n in range(10_000))
    data, began = midi(events * 100), time.process_time()
    assert len(read_notes(data).table) == 1_000_000
    assert time.process_time() - began < 60
    tar = sample_bytes("k", {"mid": data}) + END_OF_ARCHIVE
    (tmp_path / "a.tar").write_bytes(tar)
    with make_pipeline(tmp_path / "a.tar", cache="off", batch_size=1) as pipe:
        batch = next(iter(pipe))
    assert batch["midi"].shape == (1, 512, 8)
    assert batch["midi_notes"].tolist() == [512]


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((2, 6), dtype="S1"),
        np.full((2, 6), np.nan),
        np.full((2, 6), -np.inf),
        np.full((2, 6), -1e30),
        np.zeros((2, 5)),
        np.zeros(6),
    ],
    ids=["text", "nan", "infinite", "huge", "five columns", "one dimension"],
)
def test_a_table_of_notes_that_is_none_is_refused(tmp_path, table):
    members = {"json": b"{}", "mid": midi(SCALE), "notes.npy": npy_bytes(table)}
    (tmp_path / "a.tar").write_bytes(sample_bytes("k", members) + END_OF_ARCHIVE)
    with (
        make_pipeline(str(tmp_path / "a.tar"), fields=["midi"], batch_size=1) as pipe,
        pytest.raises(DecodeError, match=r"'k': (notes\.npy holds|has notes of which no tokens)"),
    ):
        list(pipe)
