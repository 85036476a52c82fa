"""Whole recordings given by path: audio and MIDI of one name together, cut into windows."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loader.audio import decode_whole
from loader.tokens import octuple
from shards.errors import DecodeError
from shards.members import AUDIO
from shards.notes import notes_of, parse_midi
from shards.pcm import INT16_SCALE
from trainer.models import Batch, Mode

AUDIO_SUFFIXES = tuple(f".{name}" for name in AUDIO if "." not in name)
MIDI_SUFFIXES = (".mid", ".midi")
_BUFFER = re.compile(r"<_io\.BytesIO object at \w+>")  # what a decoder calls the file's bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """One performance, by its audio file, its MIDI file or both."""

    audio: Path | None
    midi: Path | None

    @property
    def name(self) -> str:
        """The path that predictions are told by."""
        return str(self.audio or self.midi)


@dataclass(frozen=True, slots=True)
class Window:
    """How a model looks at a recording.

    Attributes:
        seconds: of a window.
        hop_s: from one window to the next.
        max_notes: of a window; later ones are left out, as in training.
    """

    seconds: float
    hop_s: float
    sample_rate: int
    max_notes: int


def pair(paths: Sequence[Path], *, mode: Mode) -> list[Recording]:
    """Recordings of files: audio and MIDI of one name, but for the suffix, belong together.

    Where a name comes several times, their folders must be the same, too.

    Raises:
        ValueError: a file is missing, of another kind, named twice, or not what ``mode`` takes.
    """
    found: dict[Path, dict[str, Path]] = {}
    kinds = {path: _kind(path) for path in paths}
    counts = Counter((path.stem, kind) for path, kind in kinds.items())
    for path, kind in kinds.items():
        alone = all(counts[path.stem, one] <= 1 for one in ("audio", "midi"))
        there = found.setdefault(Path(path.stem) if alone else path.with_suffix(""), {})
        if kind in there:
            raise ValueError(f"{path} and {there[kind]} would be the same recording")
        there[kind] = path
    recordings = [Recording(one.get("audio"), one.get("midi")) for one in found.values()]
    for recording in recordings:
        if mode == "audio" and recording.audio is None:
            raise ValueError(f"{recording.name}: the model takes audio; give it the recording")
        if mode == "midi" and recording.midi is None:
            raise ValueError(f"{recording.name}: the model takes MIDI; give it the MIDI file")
    return recordings


def halves(recordings: Sequence[Recording], *, mode: Mode) -> str:
    """What to say of audio without MIDI beside MIDI without audio: two halves of one, perhaps."""
    heard = [one.audio for one in recordings if one.audio and not one.midi]
    read = [one.midi for one in recordings if one.midi and not one.audio]
    if mode != "fusion" or not heard or not read:
        return ""
    return (
        f"{heard[0]} and {read[0]} are rated as two recordings; if they are one, give them one "
        f"name, as in {heard[0]} {heard[0].with_suffix(read[0].suffix)}"
    )


def cut(recording: Recording, window: Window, *, mode: Mode) -> Iterator[Batch]:
    """The windows of a recording, each a batch of one row; what a mode does not take is left out.

    Each is made as it is asked for: those of hours, close together, would fill the memory.

    A modality that a fusion model takes and the recording lacks is silence: no frame, no note.

    Raises:
        DecodeError: a file cannot be decoded; the message names it.
    """
    audio = _decode(recording.audio, window.sample_rate) if mode != "midi" else None
    score, notes_s = _parse(recording.midi if mode != "audio" else None)
    seconds = notes_s if audio is None else len(audio) / window.sample_rate
    for start_s in starts(seconds, window_s=window.seconds, hop_s=window.hop_s):
        yield _row(start_s, audio, score, window, mode)


def starts(seconds: float, *, window_s: float, hop_s: float) -> list[float]:
    """Where windows start so that all of a recording lies in one: the last ends with it."""
    last = max(0.0, seconds - window_s)
    inner = np.arange(0.0, last, hop_s).tolist()
    return [*inner, last] if last - (inner[-1] if inner else -hop_s) > 1e-6 else inner


def _kind(path: Path) -> str:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name the files in it, as in {path}/*.flac")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in MIDI_SUFFIXES:
        return "midi"
    if suffix in AUDIO_SUFFIXES:
        return "audio"
    known = ", ".join((*AUDIO_SUFFIXES, *MIDI_SUFFIXES))
    raise ValueError(f"{path}: neither audio nor MIDI by its name; known are {known}")


def _decode(path: Path | None, sample_rate: int) -> np.ndarray | None:
    """(T,) int16; None of no file."""
    if path is None:
        return None
    try:
        return decode_whole(path.read_bytes(), path.suffix.lower()[1:], sample_rate=sample_rate)
    except DecodeError as error:
        raise DecodeError(f"{path}: {_BUFFER.sub('it', str(error))}") from error


def _parse(path: Path | None) -> tuple[Any, float]:
    """The score of a MIDI file, and seconds at which its last note ends; of no file None and 0."""
    if path is None:
        return None, 0.0
    try:
        score = parse_midi(path.read_bytes())
        table = notes_of(score).table
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
    return score, float((table[:, 0] + table[:, 1]).max(initial=0.0))


def _row(start_s: float, audio: np.ndarray | None, score: Any, window: Window, mode: Mode) -> Batch:
    batch: dict[str, torch.Tensor] = {"weight": torch.ones(1)}
    if mode != "midi":
        frames = round(window.seconds * window.sample_rate)
        first = round(start_s * window.sample_rate)
        sound = np.zeros(0, np.int16) if audio is None else audio[first : first + frames]
        row = torch.zeros(1, frames)
        row[0, : len(sound)] = torch.from_numpy(sound / np.float32(INT16_SCALE))
        batch |= {"audio": row, "audio_frames": torch.tensor([len(sound)])}
    if mode != "audio":
        tokens = np.zeros((0, 8), np.int64)
        if score is not None:
            end_s = start_s + window.seconds
            tokens = octuple(notes_of(score, start_s=start_s, end_s=end_s).table)
        tokens = tokens[: window.max_notes]
        rows = torch.zeros(1, window.max_notes, 8, dtype=torch.int64)
        rows[0, : len(tokens)] = torch.from_numpy(tokens)
        batch |= {"midi": rows, "midi_notes": torch.tensor([len(tokens)])}
    return batch


def batches(windows: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Rows put together, ``size`` at a time."""
    rest = iter(windows)
    while some := list(islice(rest, size)):
        yield {name: torch.cat([one[name] for one in some]) for name in some[0]}
