"""What a sample's JSON says, as far as decoding goes by it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shards.errors import DecodeError
from shards.pcm import HIGHEST_RATE, LOWEST_RATE, USUAL
from shards.values import labels, number

_LONGEST_S = 1e9
_MOST_BEATS = 255  # of a bar, which is all that a MIDI file can say


@dataclass(frozen=True, slots=True)
class Meta:
    """The JSON of a sample; somebody else's may say anything, and says nothing then.

    Attributes:
        record: all of it.
        labels: numbers by name; None is missing.
        sample_rate, frames: of the audio as packed; both or neither.
        duration_s: seconds of the sample.
        midi_beat: beat in its bar at the start of the MIDI.
    """

    record: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, float | None] = field(default_factory=dict)
    sample_rate: int | None = None
    frames: int | None = None
    duration_s: float | None = None
    midi_beat: float = 0.0

    @property
    def audio_s(self) -> float:
        """Seconds of audio that were packed; 0 where it is not said."""
        return self.frames / self.sample_rate if self.frames and self.sample_rate else 0.0


def is_believable(meta: Meta, size: int) -> bool:
    """Whether audio of ``size`` bytes is as long as the JSON says, unless it is silent."""
    frames, rate = meta.frames or 0, meta.sample_rate or 0
    return 0 < frames <= USUAL * size and LOWEST_RATE <= rate <= HIGHEST_RATE


def parse_meta(data: bytes | memoryview | None) -> Meta:
    """Read a sample's JSON member; None is a sample without.

    Raises:
        DecodeError: if it is no JSON object.
    """
    if data is None:
        return Meta()
    try:
        record = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"its JSON is damaged: {error}") from error
    if not isinstance(record, dict):
        raise DecodeError(f"its JSON is not an object but {type(record).__name__}")
    rate, frames = _count(record.get("sample_rate")), _count(record.get("frames"))
    known = rate is not None and frames is not None
    return Meta(
        record,
        labels(record.get("labels")),
        rate if known else None,
        frames if known else None,
        _within(record.get("duration"), _LONGEST_S),
        _within(record.get("midi_beat"), _MOST_BEATS) or 0.0,
    )


def _within(value: Any, most: float) -> float | None:
    """A number from 0 to ``most``."""
    found = number(value)
    return found if found is not None and 0 <= found <= most else None


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 < value < 2**40 else None
