"""What a pipeline makes of a sample: which fields, at which rate, how long, as what."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shards.members import AUDIO, MIDI
from shards.values import is_real

FIELDS = ("audio", "midi", "labels", "json")
Crop = Literal["start", "random", "center"]
AudioDtype = Literal["float32", "int16"]
MidiForm = Literal["octuple", "notes"]
Labels = Mapping[str, float | None]
Transform = Callable[[dict[str, Any]], dict[str, Any]]

_WIDTHS = {"octuple": 8, "notes": 6}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of decoding, checked.

    Attributes:
        fields: of "audio", "midi", "labels" and "json".
        dimensions: label names, in the order of the label columns.
        sample_rate: Hz of the audio rows.
        clip_seconds: length of a row; None is the whole sample.
        relabels: ratings by key that replace or add to the samples' own.
    """

    fields: tuple[str, ...]
    dimensions: tuple[str, ...]
    sample_rate: int = 24000
    clip_seconds: float | None = 10.0
    crop: Crop = "start"
    audio_dtype: AudioDtype = "float32"
    midi: MidiForm = "octuple"
    max_notes: int = 512
    seed: int = 0
    relabels: Mapping[str, Labels] | None = None
    transform: Transform | None = None

    def __post_init__(self) -> None:
        for name in self.fields:
            _require(name in FIELDS, f"fields must be of {FIELDS}, got {name!r}")
        _require(bool(self.fields), "fields is empty: name at least one")
        for name in ("sample_rate", "max_notes"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        clip = self.clip_seconds
        if clip is not None:
            _require_number("clip_seconds", clip)
        fits = clip is None or (clip > 0 and round(clip * self.sample_rate) > 0)
        _require(fits, f"clip_seconds must be positive and at least a frame long, got {clip}")
        _choose("crop", self.crop, ("start", "random", "center"))
        _choose("audio_dtype", self.audio_dtype, ("float32", "int16"))
        _choose("midi", self.midi, ("octuple", "notes"))

    @property
    def clip_frames(self) -> int | None:
        """Frames of a row; None for whole samples."""
        return None if self.clip_seconds is None else round(self.clip_seconds * self.sample_rate)

    @property
    def needs_length(self) -> bool:
        """Whether a row depends on how long the whole sample is."""
        return self.clip_seconds is None or self.crop != "start"

    @property
    def same_every_epoch(self) -> bool:
        """Whether a sample but for its audio is the same in every epoch, and small."""
        random = self.crop == "random" and self.clip_seconds is not None
        return not random and "json" not in self.fields

    @property
    def note_width(self) -> int:
        """Columns of a note: 8 tokens or 6 numbers."""
        return _WIDTHS[self.midi]

    def wants(self, extension: str) -> bool:
        """Whether a member has to be read; JSON always, for it says how long a sample is."""
        if extension == "json":
            return True
        if is_audio(extension):
            return "audio" in self.fields
        return "midi" in self.fields and extension in MIDI


def whole_number(name: str, given: Any) -> int:
    """An argument that counts something, as an integer, of whatever type its number came.

    Raises:
        ValueError: if it is no number, not positive or not whole.
    """
    _require_number(name, given)
    _require(given > 0, f"{name} must be positive, got {given}")
    _require(given % 1 == 0, f"{name} must be a whole number, got {given}")
    return int(given)


def is_audio(extension: str) -> bool:
    """Whether a member is audio, by its extension."""
    return extension in AUDIO


def audio_extension(members: Mapping[str, Any]) -> str | None:
    """Which member is the audio; decoded before compressed."""
    return next((name for name in AUDIO if name in members), None)


def midi_extension(members: Mapping[str, Any]) -> str | None:
    """Which member is the MIDI; the file before the table made of it."""
    return next((name for name in MIDI if name in members), None)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _require_number(name: str, given: Any) -> None:
    _require(is_real(given) and math.isfinite(given), f"{name} must be a number, got {given!r}")


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{name} must be one of {', '.join(allowed)}, got {value!r}")
