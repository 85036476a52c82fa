"""Decoding as users of each peer write it, the same for all by soundfile, and by this project."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.setting import FRAMES, NOTES, OURS, RATE, SOUNDFILE, USERS

Samples = NDArray[np.float32]
Sample = dict[str, Any]


def by_librosa(flac: Any) -> Samples:
    """Audio out of a file or its bytes, as tutorials load it."""
    import librosa

    source = flac if isinstance(flac, str) else BytesIO(flac)
    return librosa.load(source, sr=RATE)[0]


def by_soundfile(flac: Any) -> Samples:
    import soundfile

    source = flac if isinstance(flac, str) else BytesIO(flac)
    return soundfile.read(source, dtype="float32")[0]


def by_this_project(flac: Any) -> Samples:
    """Audio by the decoder that this project has: miniaudio, straight into an array."""
    from loader.audio import decode_window

    data = _content(flac)
    row = np.empty(FRAMES, np.float32)
    return row[: decode_window(data, "flac", row, sample_rate=RATE)]


@dataclass(frozen=True, slots=True)
class Decode:
    """Makes samples, in any process.

    Attributes:
        decoders: who decodes.
        users_audio: what users of the peer decode FLAC with.
    """

    decoders: str
    users_audio: Callable[[Any], Samples] = by_librosa

    def files(self, key: str, flac: Any, midi: bytes, record: bytes | str | Sample) -> Sample:
        """A sample out of files; ``flac`` is bytes or, for those that have files, a path."""
        audio = {USERS: self.users_audio, SOUNDFILE: by_soundfile, OURS: by_this_project}
        return self.audio(key, audio[self.decoders](flac), midi, record)

    def audio(self, key: str, audio: Any, midi: bytes, record: bytes | str | Sample) -> Sample:
        """A sample whose audio is decoded already."""
        meta = record if isinstance(record, dict) else json.loads(record)
        tokens = tokens_by_pretty_midi if self.decoders == USERS else tokens_by_symusic
        return finish(key, audio, tokens(midi, meta), list(meta["labels"].values()))


def arrays(key: str, audio: NDArray[np.int16], tokens: Any, labels: Any) -> Sample:
    """A sample out of decoded arrays."""
    row = np.zeros(FRAMES, np.float32)
    np.multiply(audio[:FRAMES], np.float32(1 / 32768), out=row[: len(audio)])
    return finish(key, row, tokens, labels)


def finish(key: str, audio: Any, tokens: Any, labels: Any) -> Sample:
    """Arrays of the shapes that a batch has."""
    row = audio
    if len(audio) != FRAMES:
        row = np.zeros(FRAMES, np.float32)
        row[: len(audio)] = audio[:FRAMES]
    midi = np.zeros((NOTES, 8), np.int64)
    midi[: len(tokens)] = tokens[:NOTES]
    return {
        "__key__": key,
        "audio": torch.as_tensor(row),
        "midi": torch.from_numpy(midi),
        "labels": torch.as_tensor(np.asarray(labels, dtype=np.float32)),
    }


def tokens_by_symusic(midi: bytes, meta: Sample) -> NDArray[np.int64]:
    """(N, 8) tokens by this project's functions."""
    from loader.tokens import octuple
    from shards.notes import read_notes

    return octuple(read_notes(midi, end_s=10.0, beat=meta["midi_beat"]).table)


def tokens_by_pretty_midi(midi: bytes, meta: Sample) -> NDArray[np.int64]:
    """(N, 8) tokens as one writes them with pretty_midi: its notes, its beats, its downbeats."""
    import pretty_midi

    score = pretty_midi.PrettyMIDI(BytesIO(midi))
    notes = [note for instrument in score.instruments for note in instrument.notes]
    notes.sort(key=lambda note: (note.start, note.pitch))
    tokens = np.zeros((len(notes), 8), np.int64)
    if not notes:
        return tokens
    onset = np.array([note.start for note in notes])
    beats, downbeats = score.get_beats(), score.get_downbeats()
    beat = np.maximum(np.searchsorted(beats, onset, side="right") - 1, 0)
    bar = np.maximum(np.searchsorted(downbeats, onset, side="right") - 1, 0)
    length = np.diff(np.append(beats, beats[-1] + 0.5))[beat]
    tokens[:, 1] = beat - np.searchsorted(beats, downbeats)[bar]
    tokens[:, 2] = np.clip(16 * (onset - beats[beat]) / length, 0, 15)
    tokens[:, 3] = [note.pitch - 21 for note in notes]
    tokens[:, 4] = np.clip([round(100 * (note.end - note.start)) for note in notes], 1, 127)
    tokens[:, 5] = [note.velocity for note in notes]
    tokens[:, 7] = np.minimum(bar, 511)
    return tokens


def _content(file: Any) -> bytes:
    if not isinstance(file, str):
        return file
    with open(file, "rb") as opened:
        return opened.read()
