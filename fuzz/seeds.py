"""Good inputs of each target, small: fuzzing changes them into bad ones."""

import io
import json
import tarfile
from functools import cache

import numpy as np
import soundfile
import symusic

from shards.index import index_bytes
from shards.keys import keys_bytes
from shards.manifest import LabelStats, Manifest, ShardInfo, dump_manifest
from shards.npy import npy_bytes
from shards.tar import END_OF_ARCHIVE, sample_bytes

RATE = 8000
AUDIO = ("flac", "wav", "mp3", "ogg", "opus", "audio.npy", "aiff")
_FORMATS = {"flac": "FLAC", "wav": "WAV", "mp3": "MP3", "ogg": "OGG", "aiff": "AIFF"}


@cache
def tar() -> bytes:
    """Three samples as packing writes them."""
    samples = [
        sample_bytes(f"k{n}", {"json": b'{"duration": 1.0}', "mid": midi()}) for n in range(3)
    ]
    return b"".join(samples) + END_OF_ARCHIVE


def foreign_tar(form: int, name: str) -> bytes:
    """A tar as Python's own module writes it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as file:
        for extension in ("json", "txt"):
            member = tarfile.TarInfo(f"{name}.{extension}")
            member.size = 3
            file.addfile(member, io.BytesIO(b"[1]"))
    return target.getvalue()


@cache
def midi(*, tracks: int = 1, notes: int = 4) -> bytes:
    """Notes, a change of tempo and of meter, pedal, a bend."""
    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, qpm=90))
    score.tempos.append(symusic.Tempo(700, qpm=133))
    score.time_signatures.append(symusic.TimeSignature(0, 3, 4))
    score.time_signatures.append(symusic.TimeSignature(1440, 6, 8))
    score.key_signatures.append(symusic.KeySignature(0, -3, 1))
    for number in range(tracks):
        track = symusic.Track("piano", 0, number == 9)
        for place in range(notes):
            track.notes.append(symusic.Note(place * 311, 200, 40 + place, 70))
        track.controls.append(symusic.ControlChange(30, 64, 127))
        track.pitch_bends.append(symusic.PitchBend(50, 100))
        score.tracks.append(track)
    return bytes(score.dumps_midi())


@cache
def audio(extension: str, *, channels: int = 1, subtype: str | None = None) -> bytes:
    """A twentieth of a second of noise."""
    sound = 0.1 * np.random.default_rng(0).standard_normal((RATE // 20, channels))
    if extension == "audio.npy":
        return npy_bytes((sound[:, 0] * 32768).astype(np.int16))
    target = io.BytesIO()
    form, rate = _FORMATS.get(extension, "OGG"), 48000 if extension == "opus" else RATE
    subtype = "OPUS" if extension == "opus" else subtype
    soundfile.write(target, sound, rate, format=form, subtype=subtype)
    return target.getvalue()


@cache
def manifest() -> bytes:
    """A manifest of two shards with everything that one can have."""
    return dump_manifest(
        Manifest(
            name="name",
            description="description",
            shards=(ShardInfo("shard-000000.tar", 3, 8192, "ab" * 32), ShardInfo("a/b.tar", 2)),
            fields={"audio": "flac", "midi": "mid"},
            labels={"tempo": LabelStats(5, 0.0, 1.0, 0.5, 0.25)},
            options={"audio": "flac", "seed": 0},
            duration_s=50.0,
            packer_version="0.1.0",
        )
    )


def wids() -> bytes:
    """An index as somebody else writes it."""
    document = {"wids_version": 1, "shardlist": [{"url": "a.tar", "nsamples": 3, "filesize": 9}]}
    return json.dumps(document).encode()


def lines() -> list[bytes]:
    """Annotation lines, and ratings of keys."""
    full = {
        "audio_path": "a/b.wav",
        "midi_path": "a/b.mid",
        "start_time": 0.5,
        "end_time": 2,
        "key": "k-1",
        "labels": {"a": 1, "b": None},
        "piece": {"name": ["x", {"y": 1.5}]},
    }
    rating = {"key": "k0", "labels": {"a": 1.5, "b": None}}
    return [json.dumps(record).encode() for record in (full, rating, {"midi_path": "x.mid"})]


def state(fingerprint: str = "f") -> bytes:
    """A state as a pipeline writes it."""
    return json.dumps(
        {
            "version": 1,
            "fingerprint": fingerprint,
            "seed": 0,
            "shuffle": 10,
            "subset": None,
            "mixture": None,
            "streams": 1,
            "epoch": 3,
            "position": 17,
        }
    ).encode()


def metas() -> list[bytes]:
    """JSON of samples."""
    told = {"sample_rate": RATE, "frames": RATE, "duration": 1.0, "labels": {"a": 1}}
    return [json.dumps(told).encode(), json.dumps({"midi_beat": 1.5, "duration": 3}).encode()]


def seeds(name: str) -> list[bytes]:
    """Good inputs of a target."""
    forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    offsets = [0, *(len(tar()) * n // 3 // 512 * 512 for n in (1, 2)), len(tar()) - 1024]
    found: dict[str, list[bytes]] = {
        "tar": [tar(), *(foreign_tar(form, name) for form in forms for name in ("k", "é" * 90))],
        "index": [index_bytes(offsets), keys_bytes([["k0", "k1"], ["k2"]])],
        "manifest": [manifest(), wids()],
        "line": lines(),
        "midi": [midi(), midi(tracks=12, notes=2)],
        "audio": [bytes([number]) + audio(extension) for number, extension in enumerate(AUDIO)]
        + [b"\1" + audio("wav", channels=2, subtype=kind) for kind in ("FLOAT", "PCM_24")]
        + [b"\0" + audio("flac", channels=2, subtype="PCM_24")],
        "npy": [npy_bytes(np.ones((2, 6), np.float32)), npy_bytes(np.arange(5, dtype=np.int16))],
        "sample": [bytes([n]) + meta for meta in metas() for n in range(6)],
        "state": [state()],
    }
    return found[name]
