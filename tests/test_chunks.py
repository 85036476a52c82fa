"""shards.chunks: audio that ends within its samples is refused, packed, verified or decoded."""

import json
import struct
from io import BytesIO

import numpy as np
import pytest
import soundfile

from loader.audio import decode_whole, duration_s
from packer.__main__ import main
from packer.audio import measure, probe_audio
from shards.chunks import require_whole
from shards.errors import DecodeError

RATE, FRAMES = 24000, 12_001  # odd: of 8 bits they are padded
FORMS = {
    "wav": {"format": "WAV"},
    "wav of floats": {"format": "WAVEX", "subtype": "FLOAT"},
    "rf64": {"format": "RF64"},
    "rifx": {"format": "WAV", "endian": "BIG"},
    "w64": {"format": "W64"},
    "aiff": {"format": "AIFF"},
    "aiff-c": {"format": "AIFF", "endian": "LITTLE"},
}


def sound(form: str, **options) -> bytes:
    target = BytesIO()
    wave = 0.3 * np.sin(np.arange(FRAMES) / 20)
    soundfile.write(target, wave, RATE, **{"subtype": "PCM_16", **FORMS[form], **options})
    return target.getvalue()


def extension(form: str) -> str:
    return "aiff" if form.startswith("aiff") else "wav"


def cut(form: str) -> bytes:
    return sound(form)[:10_000]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_whole_is_read(tmp_path, form):
    data, path = sound(form), tmp_path / "a"
    path.write_bytes(data)
    require_whole(memoryview(data))
    assert probe_audio(path).frames == measure(data, extension(form))[0] == FRAMES
    assert len(decode_whole(data, extension(form), sample_rate=RATE)) == FRAMES


@pytest.mark.parametrize(("form", "head"), [("wav", 8), ("w64", 24)])
def test_the_padding_of_the_samples_may_lack(form, head):
    data = sound(form, subtype="PCM_U8")
    end = data.index(b"data") + head + FRAMES
    require_whole(data[:end])
    with pytest.raises(DecodeError, match=f"holds {end - 1} bytes where its header declares {end}"):
        require_whole(data[: end - 1])


@pytest.mark.parametrize("form", FORMS)
def test_the_loader_refuses_what_is_cut_off(form):
    for read in (
        lambda data, kind: decode_whole(data, kind, sample_rate=RATE),
        lambda data, kind: duration_s(data, kind, stored_rate=RATE),
    ):
        with pytest.raises(DecodeError, match="holds 10000 bytes where its header declares"):
            read(cut(form), extension(form))


@pytest.mark.parametrize("audio", ["flac", "copy"])
def test_the_packer_rejects_what_is_cut_off(tmp_path, audio):
    lines = []
    for number, form in enumerate(FORMS):
        name = f"{number}.{extension(form)}"
        (tmp_path / name).write_bytes(cut(form))
        lines.append(json.dumps({"audio_path": name, "labels": {"a": 1.0}}))
    (tmp_path / "good.wav").write_bytes(sound("wav"))
    lines.append(json.dumps({"audio_path": "good.wav", "labels": {"a": 1.0}}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    command = ["build", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*command, "--audio", audio, "--max-rejected", "100%"]) == 0
    rejected = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in rejected] == list(range(1, len(FORMS) + 1))
    reasons = [json.loads(line)["reason"] for line in rejected]
    assert all("holds 10000 bytes where its header declares" in reason for reason in reasons)


@pytest.mark.parametrize("form", FORMS)
def test_a_member_that_is_cut_off_is_not_measured(form):
    with pytest.raises(DecodeError, match="holds 10000 bytes where its header declares"):
        measure(cut(form), extension(form))


@pytest.mark.parametrize("size", [0x7F000008, 0x7FFFF000, 2**32 - 1])
@pytest.mark.parametrize("form", ["wav", "rifx", "aiff"])
def test_sizes_of_streams_are_not_known(form, size):
    data = bytearray(cut(form))
    at = data.index(b"SSND" if form == "aiff" else b"data") + 4
    data[at : at + 4] = struct.pack("<I" if form == "wav" else ">I", size)
    require_whole(bytes(data))


@pytest.mark.parametrize("size", [2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("form", ["rf64", "w64"])
def test_long_sizes_of_streams_are_not_known(form, size):
    data = bytearray(cut(form))
    at = data.index(b"ds64") + 16 if form == "rf64" else data.index(b"data") + 16
    data[at : at + 8] = struct.pack("<Q", size)
    require_whole(bytes(data))


class Counting(bytes):
    """Bytes that count how often a part is taken of them."""

    taken = 0

    def __getitem__(self, part):
        self.taken += 1
        return super().__getitem__(part)


@pytest.mark.parametrize("size", [None, 0])
def test_nothing_is_walked_behind_the_head_of_the_samples(size):
    """Nor the samples of a recorder that broke down before it wrote their size."""
    wav = sound("wav")
    told = wav[40:44] if size is None else struct.pack("<I", size)
    data = Counting(wav[:40] + told + wav[44:] + bytes(1 << 16))
    require_whole(data)
    assert data.taken < 5


def test_chunks_before_the_samples_are_few():
    wav = sound("wav")
    data = Counting(wav[:36] + bytes(1 << 16) + wav[36:])
    with pytest.raises(DecodeError, match="no samples in its first 1024 chunks"):
        require_whole(data)
    assert data.taken < 1100
