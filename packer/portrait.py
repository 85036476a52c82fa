"""All that a page shows of one sample: pictures, notes, pedal, labels, audio."""

import json
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import soundfile

from packer.audio import pcm16_options
from packer.picture import LOWEST_HZ, Samples, envelope, highest_hz, mel_picture, png
from shards.errors import DecodeError
from shards.members import fields_of
from shards.notes import parse_midi, read_notes
from shards.npy import typed_npy_view
from shards.pcm import INT16_SCALE, PLAUSIBLE, mix_down

_SUSTAIN, _HALF = 64, 64  # the pedal's controller, and from which value on it is down
_RATES = range(100, 1_000_001)  # Hz; beyond them no picture can be drawn
_LARGEST = 1e300  # also of integers, which may be larger than any float
_TYPES = {
    "flac": "audio/flac",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "aif": "audio/aiff",
    "aiff": "audio/aiff",
}


def portrait(key: str, members: Mapping[str, bytes]) -> dict[str, Any]:
    """What a page shows of a sample but for its audio, as JSON values.

    ``wave`` and ``mel`` are Base64, of (columns, 2) int8 and of a PNG; ``notes`` are rows of onset,
    duration, pitch and velocity, ``pedal`` spans during which it is down, all in seconds. What
    cannot be decoded is missing, and ``faults`` says why.
    """
    shown: dict[str, Any] = {"key": key, "seconds": 0.0, "faults": []}
    shown["members"] = [[extension, len(data)] for extension, data in members.items()]
    record = read_record(members.get("json", b"{}"))
    shown["json"] = json.dumps(record, indent=2, ensure_ascii=False)
    labels = record.get("labels")
    shown["labels"] = {
        name: value
        for name, value in (labels.items() if isinstance(labels, dict) else ())
        if value is None or is_finite(value)
    }
    fields = fields_of(members)
    for field, add in (("audio", _add_audio), ("midi", _add_midi)):
        if field in fields:
            try:
                add(shown, members[fields[field]], fields[field], record)
            except DecodeError as error:
                shown["faults"].append(f"{field}: {error}")
    return shown


def read_record(data: bytes) -> dict[str, Any]:
    """The JSON of a sample; empty if it is no JSON object. NaN and infinity become text."""
    try:
        record = json.loads(data, parse_constant=str)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a number that a page can show: 1e999 is read as infinity."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < _LARGEST


def playable(members: Mapping[str, bytes]) -> tuple[bytes, str] | None:
    """The audio of a sample as a browser plays it, and its media type; None if there is none.

    Raises:
        DecodeError: if audio that has to be encoded for that is damaged.
    """
    extension = fields_of(members).get("audio")
    if extension is None:
        return None
    if extension in _TYPES:
        return members[extension], _TYPES[extension]
    samples, rate = _decode(members[extension], extension, read_record(members.get("json", b"{}")))
    target = BytesIO()
    soundfile.write(target, samples, rate, **pcm16_options("flac"))
    return target.getvalue(), _TYPES["flac"]


def _add_audio(shown: dict[str, Any], data: bytes, extension: str, record: dict[str, Any]) -> None:
    samples, rate = _decode(data, extension, record)
    shown["seconds"] = shown["audioSeconds"] = round(len(samples) / rate, 3)
    shown["rate"] = rate
    shown["wave"] = b64encode(envelope(samples).tobytes()).decode()
    shown["mel"] = b64encode(png(mel_picture(samples, rate))).decode()
    shown["hertz"] = [LOWEST_HZ, highest_hz(rate)]


def _add_midi(shown: dict[str, Any], data: bytes, extension: str, record: dict[str, Any]) -> None:
    if extension == "notes.npy":
        raise DecodeError("notes.npy is not drawn; .mid is")
    table = read_notes(data).table
    end = float((table[:, 0] + table[:, 1]).max(initial=0.0))
    shown["seconds"] = max(shown["seconds"], round(end, 3))
    shown["notes"] = [
        [round(onset, 3), round(duration, 3), int(pitch), int(velocity)]
        for onset, duration, pitch, velocity in table[:, :4].tolist()
    ]
    shown["pedal"] = _pedal(data, shown["seconds"])


def _pedal(data: bytes, end_s: float) -> list[list[float]]:
    """Spans in seconds during which the sustain pedal is down; at the latest up to the end."""
    score = parse_midi(data).to("second")
    changes = sorted(
        (float(control.time), control.value >= _HALF)
        for track in score.tracks
        for control in track.controls
        if control.number == _SUSTAIN
    )
    spans: list[list[float]] = []
    since: float | None = None
    for time, down in [*changes, (end_s, False)]:
        if down and since is None:
            since = time
        elif not down and since is not None:
            spans.append([round(since, 3), round(time, 3)])
            since = None
    return spans


def _decode(data: bytes, extension: str, record: dict[str, Any]) -> tuple[Samples, int]:
    """(frames,) mono samples in [-1, 1] and their rate."""
    try:
        if extension == "audio.npy":
            pcm = typed_npy_view(data, dtype=np.int16).astype(np.float32)
            samples: Samples = pcm / np.float32(INT16_SCALE)
            rate = record.get("sample_rate")
        else:
            with soundfile.SoundFile(BytesIO(data)) as file:
                if file.frames > PLAUSIBLE * len(data):
                    raise DecodeError(f"declares {file.frames} frames in {len(data)} bytes")
                samples = mix_down(file.read(dtype="float32", always_2d=True))
                rate = file.samplerate
    except soundfile.LibsndfileError as error:
        raise DecodeError(f".{extension} does not decode: {error}") from error
    if not isinstance(rate, int) or rate <= 0:
        raise DecodeError(f".{extension} needs a sample_rate in its JSON")
    if rate not in _RATES:
        raise DecodeError(f".{extension} has a rate of {rate} Hz, and is not drawn")
    if not len(samples):
        raise DecodeError(f".{extension} holds no audio")
    return samples, rate
