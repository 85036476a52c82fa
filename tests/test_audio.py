"""loader.audio: windows of any format, equal to libsndfile's, and damage that is never silent."""

from contextlib import closing
from io import BytesIO

import numpy as np
import pytest
import soundfile

from loader import audio, decoders
from loader.audio import decode_whole, decode_window, duration_s
from loader.fast_decoders import FAST, copy_samples
from shards.errors import DecodeError
from shards.npy import npy_view
from shards.pcm import USUAL

RATE = 8000


def sound(seconds: float = 1.0, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(frames, channels) float32: a chord, so that lossy codecs have something to keep."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * f * time) for f in (220 + 30 * seed, 331, 440)]
    mono = 0.2 * sum(tones)
    return np.stack([mono * (1 - 0.5 * c) for c in range(channels)], axis=1).astype(np.float32)


def encode(samples: np.ndarray, extension: str, *, rate: int = RATE, subtype: str | None = None):
    target = BytesIO()
    container, default = {
        "flac": ("FLAC", "PCM_16"),
        "wav": ("WAV", "PCM_16"),
        "mp3": ("MP3", None),
        "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"),
    }[extension]
    soundfile.write(target, samples, rate, format=container, subtype=subtype or default)
    return target.getvalue()


def decode(data, extension, frames=RATE, *, rate=RATE, dtype=np.float32, **options):
    row = np.full(frames, 7, dtype=dtype)
    count = decode_window(data, extension, row, sample_rate=rate, **options)
    return row, count


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("extension", ["flac", "wav"])
def test_lossless_audio_is_that_of_libsndfile_to_the_bit(extension, subtype):
    data = encode(sound(), extension, subtype=subtype)
    expected, _ = soundfile.read(BytesIO(data), dtype="float32")
    row, count = decode(data, extension)
    assert count == RATE
    assert np.array_equal(row, expected)


def test_windows_of_vorbis_come_from_where_they_were_asked_for():
    """libsndfile misses some places when it seeks there, such as these, near the end."""
    time = np.arange(60 * 24000) / 24000
    tone = 0.2 * np.sin(2 * np.pi * (220 + 20 * np.sin(time)) * time) * np.exp(-(time % 2))
    data = encode(tone.astype(np.float32)[:, None], "ogg", rate=24000)
    whole, _ = soundfile.read(BytesIO(data), dtype="float32")
    for start in (1000, 700_000, 1_388_723, 1_389_012, 1_399_317, 1_413_511):
        row, _ = decode(data, "ogg", 400, rate=24000, start=start)
        assert np.array_equal(row, whole[start : start + 400]), start


@pytest.mark.parametrize("extension", ["flac", "wav"])
def test_int16_rows_are_the_stored_samples(extension):
    data = encode(sound(), extension)
    expected, _ = soundfile.read(BytesIO(data), dtype="int16")
    row, _ = decode(data, extension, dtype=np.int16)
    assert np.array_equal(row, expected)


@pytest.mark.parametrize("extension", ["mp3", "ogg", "opus"])
def test_lossy_audio_is_close_to_its_source(extension):
    seconds, rate = 3.0, 24000
    time = np.arange(round(seconds * rate)) / rate
    source = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    row, count = decode(encode(source, extension, rate=rate), extension, len(source), rate=rate)
    assert count >= 0.95 * len(source)
    middle = slice(rate, 2 * rate)
    spectrum = np.abs(np.fft.rfft(row[middle]))
    assert np.argmax(spectrum) == 440
    assert row[middle].std() == pytest.approx(source[middle].std(), rel=0.05)


@pytest.mark.parametrize("extension", ["flac", "wav", "mp3"])
@pytest.mark.parametrize("start", [1, 777, 4000])
def test_a_window_is_the_same_part_of_the_whole(extension, start):
    data = encode(sound(2.0), extension)
    whole, _ = decode(data, extension, 2 * RATE)
    row, count = decode(data, extension, 1000, start=start)
    assert count == 1000
    assert np.allclose(row, whole[start : start + 1000], atol=0 if extension != "mp3" else 1e-4)


def test_what_lies_behind_the_end_is_zero():
    row, count = decode(encode(sound(0.25), "flac"), "flac")
    assert count == RATE // 4
    assert not row[count:].any()
    row, count = decode(encode(sound(0.25), "flac"), "flac", start=RATE)
    assert count == 0
    assert not row.any()


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_are_averaged(channels):
    samples = sound(channels=channels)
    data = encode(samples, "wav", subtype="FLOAT")
    row, _ = decode(data, "wav")
    assert np.allclose(row, samples.mean(axis=1), atol=1e-6)


def to_int16(samples):
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def noise(rate: int, seconds: float = 3.0) -> np.ndarray:
    """(frames,) float32: the hardest case of resampling, for it has everything at the edges."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


RATES = [(44100, 24000), (48000, 16000), (22050, 24000), (8000, 44100), (24000, 8000)]
ODD_RATES = [(44101, 24000), (192000, 1000)]


@pytest.mark.parametrize(("rate", "wanted"), RATES + ODD_RATES)
def test_a_resampled_window_is_the_same_part_of_the_whole(rate, wanted):
    data = encode(noise(rate), "wav", rate=rate)
    whole = decode_whole(data, "wav", sample_rate=wanted)
    length = wanted // 4
    last = len(whole) - length
    for start in (0, 1, 77, wanted + 1, last - 100, last - 1, last, last + 7, len(whole) + 200):
        due = whole[start : start + length].astype(int)
        row, count = decode(data, "wav", length, rate=wanted, dtype=np.int16, start=start)
        assert count == len(due), start
        assert np.abs(row[:count] - due).max(initial=0) <= 1, start
        assert not row[count:].any()
        row, _ = decode(data, "wav", length, rate=wanted, start=start)
        assert np.abs(to_int16(row[:count]) - due).max(initial=0) <= 1, start


@pytest.mark.parametrize(("rate", "wanted"), RATES)
def test_a_resampled_window_reads_little_more_than_itself(rate, wanted, monkeypatch):
    data, read = encode(noise(rate), "wav", rate=rate), []
    original = audio._read_whole

    def counted(decoder, first, out):
        read.append(len(out))
        original(decoder, first, out)

    monkeypatch.setattr(audio, "_read_whole", counted)
    decode(data, "wav", wanted // 2, rate=wanted, start=wanted)
    assert sum(read) < rate // 2 + 3 * 128 * max(1, rate / wanted) + rate // np.gcd(rate, wanted)


@pytest.mark.parametrize("source_rate", [RATE // 2, 11025, 44100])
def test_another_rate_is_resampled(source_rate):
    time = np.arange(2 * source_rate) / source_rate
    source = (0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)
    row, count = decode(encode(source, "flac", rate=source_rate), "flac", 2 * RATE)
    assert abs(count - 2 * RATE) <= 1
    expected = 0.3 * np.sin(2 * np.pi * 300 * np.arange(2 * RATE) / RATE)
    assert np.abs(row - expected)[500:-500].max() < 0.002


def test_decoded_members_are_int16_npy():
    samples = (sound()[:, 0] * 32768).astype(np.int16)
    target = BytesIO()
    np.save(target, samples)
    row, count = decode(target.getvalue(), "audio.npy")
    assert count == RATE
    assert np.array_equal(row, samples.astype(np.float32) / 32768)
    part, _ = decode(target.getvalue(), "audio.npy", 100, start=50, dtype=np.int16)
    assert np.array_equal(part, samples[50:150])


def test_damaged_flac_is_an_error_that_tells_what_was_tried():
    """The fast decoder shortens it without a word: the count is what gives it away."""
    data = bytearray(encode(sound(2.0), "flac"))
    rng = np.random.default_rng(0)
    for _ in range(20):
        copy = bytearray(data)
        at = int(rng.integers(len(data) // 4, len(data)))
        copy[at : at + 40] = rng.integers(0, 256, 40, dtype=np.uint8).tobytes()[: len(copy) - at]
        with pytest.raises(DecodeError, match=r"miniaudio: .*; soundfile: .*; torchcodec: "):
            decode(bytes(copy), "flac", 2 * RATE)


@pytest.mark.parametrize("extension", ["flac", "wav", "mp3", "ogg"])
@pytest.mark.parametrize("kind", ["empty", "text", "head"])
def test_what_is_no_audio_is_an_error(extension, kind):
    data = {"empty": b"", "text": b"not audio" * 50, "head": encode(sound(), extension)[:30]}[kind]
    with pytest.raises(DecodeError, match="soundfile"):
        decode(data, extension)


def test_a_file_shorter_than_its_annotation_is_an_error():
    data = encode(sound(1.0), "flac")
    decode(data, "flac", at_least=1.0)
    decode(data, "flac", at_least=1.0 + 1 / RATE)
    with pytest.raises(DecodeError, match="8000 frames, 8800"):
        decode(data, "flac", at_least=1.1)


def test_what_the_fast_decoder_cannot_read_goes_to_the_next():
    """A WAV under another name: the extension chooses only who tries first."""
    row, count = decode(encode(sound(), "wav"), "flac")
    assert count == RATE
    assert row.any()


def test_duration_is_that_of_the_header():
    assert duration_s(encode(sound(1.5), "flac"), "flac", stored_rate=1) == 1.5


def test_npy_is_read_in_place_and_never_unpickled():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    for array in (table, np.asfortranarray(table), np.zeros((0, 6), np.float32)):
        target = BytesIO()
        np.save(target, array)
        assert np.array_equal(npy_view(target.getvalue()), array)
    target = BytesIO()
    np.save(target, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DecodeError, match="objects"):
        npy_view(target.getvalue())
    np.save(target := BytesIO(), table)
    with pytest.raises(DecodeError, match="truncated"):
        npy_view(target.getvalue()[:-1])
    with pytest.raises(DecodeError, match="npy"):
        npy_view(b"junk")


@pytest.mark.parametrize("extension", ["ogg", "opus"])
def test_loud_lossy_audio_is_clipped_not_wrapped_around(extension):
    rate = 24000
    source = np.sign(np.sin(np.arange(rate) / 20)).astype(np.float32) * 0.999
    data = encode(source, extension, rate=rate)
    float32, _ = decode(data, extension, rate, rate=rate)
    int16, _ = decode(data, extension, rate, rate=rate, dtype=np.int16)
    overshooting, _ = soundfile.read(BytesIO(data), dtype="float32")
    assert np.abs(overshooting).max() > 1
    assert np.abs(float32).max() == 1
    expected = np.clip(np.rint(float32 * 32768), -32768, 32767)
    assert np.abs(int16 - expected).max() <= 1


@pytest.mark.parametrize(
    ("extension", "subtype"), [("flac", "PCM_24"), ("wav", "PCM_24"), ("wav", "FLOAT")]
)
def test_finer_samples_are_rounded_to_int16(extension, subtype):
    data = encode(sound(), extension, subtype=subtype)
    float32, _ = decode(data, extension)
    int16, _ = decode(data, extension, dtype=np.int16)
    assert np.array_equal(int16, np.rint(float32 * 32768))


def npy(samples: np.ndarray) -> bytes:
    target = BytesIO()
    np.save(target, samples)
    return target.getvalue()


def test_every_16_bit_sample_becomes_its_fraction_of_full_scale():
    samples = np.arange(-(2**15), 2**15).astype(np.int16)
    out = np.full(len(samples), 7, np.float32)
    assert copy_samples(samples, out) == len(samples)
    np.testing.assert_array_equal(out, samples / np.float32(2**15))


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize(("stored", "room"), [(5, 8), (8, 5), (0, 3)])
def test_as_many_samples_are_copied_as_both_sides_hold(dtype, stored, room):
    out = np.full(room, 7, dtype)
    assert copy_samples(np.full(stored, 2**14, np.int16), out) == min(stored, room)
    copied = 0.5 if dtype == np.float32 else 2**14
    assert out.tolist() == [copied] * min(stored, room) + [7] * (room - min(stored, room))


def test_npy_of_another_rate_is_resampled():
    samples = np.rint(10000 * np.sin(2 * np.pi * 500 * np.arange(2 * RATE) / (2 * RATE)))
    row, count = decode(npy(samples.astype(np.int16)), "audio.npy", stored_rate=2 * RATE)
    assert count == RATE
    assert np.argmax(np.abs(np.fft.rfft(row))) == 500


def test_npy_shorter_than_its_annotation_is_an_error():
    with pytest.raises(DecodeError, match="1000 frames, 8000"):
        decode(npy(np.zeros(1000, np.int16)), "audio.npy", at_least=1.0)


def without_length(data: bytes) -> bytes:
    """A FLAC whose header leaves the number of samples open, as encoders of streams do."""
    changed = bytearray(data)
    changed[21] &= 0xF0
    changed[22:26] = bytes(4)
    return bytes(changed)


def test_flac_of_unknown_length_is_counted():
    data = encode(sound(), "flac")
    whole, _ = decode(data, "flac")
    row, count = decode(without_length(data), "flac")
    assert count == RATE
    assert np.array_equal(row, whole)
    assert duration_s(without_length(data), "flac", stored_rate=1) == 1.0


@pytest.mark.parametrize("extension", ["flac", "wav"])
def test_a_header_is_believed_up_to_what_the_file_holds(extension):
    data = bytearray(encode(sound(), extension))
    if extension == "flac":
        data[21] |= 0x0F
        data[22:26] = b"\xff" * 4  # 2**36 - 1 samples
    else:
        data[40:44] = b"\xff" * 4  # 4 GiB of samples
    with_header = bytes(data)
    try:
        found = duration_s(with_header, extension, stored_rate=1)
    except DecodeError:
        found = 1.0
    assert found == pytest.approx(1.0, abs=0.1)


def test_a_damaged_npy_header_is_an_error():
    with pytest.raises(DecodeError):
        npy_view(b"\x93NUMPY\x01\x00\x10\x00{'descr': (((\n" + bytes(100))


def test_near_silence_is_counted_in_one_pass(monkeypatch):
    """So small a file might claim its length: it is decoded once to see, and not block by block."""
    samples, read = np.zeros(20 * 48000, np.float32), soundfile.SoundFile.read
    data, frames = encode(samples, "ogg", rate=48000), []

    def count(self, size, *, out):
        frames.append(size)
        return read(self, size, out=out)

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    assert audio._honest_frames(decoders.SoundFile(data), 1) == len(samples)
    assert sum(frames) < 3 * len(samples)


def test_near_silent_flac_is_decoded_by_the_fast_decoder(monkeypatch):
    data = encode(np.zeros(60 * RATE, np.float32), "flac")
    assert USUAL * len(data) < 60 * RATE
    monkeypatch.setattr(decoders, "SoundFile", None)
    assert len(decode_whole(data, "flac", sample_rate=RATE)) == 60 * RATE


@pytest.mark.parametrize("extension", ["flac", "wav", "mp3"])
def test_reads_that_follow_one_another_are_one_read(extension):
    data = encode(sound(2.0), extension)
    whole, row = np.empty((2 * RATE, 1), np.float32), np.empty((500, 1), np.float32)
    with closing(FAST[extension](data)) as decoder:
        assert decoder.read(0, whole) == len(whole)
        for start in (0, 500, 1000, 3000, 1000, 1500):
            assert decoder.read(start, row) == 500
            assert np.allclose(row, whole[start : start + 500], atol=1e-4)
