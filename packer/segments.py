"""Segments of recordings, and how whole ones are cut into windows of equal length. Pure."""

from dataclasses import dataclass

from shards.schema import Annotation

SHORTEST_S = 0.01  # a segment of fewer samples than a codec's frame is a slip of the pen
_SLACK_S = 1e-6  # lengths are quotients of integers


@dataclass(frozen=True, slots=True)
class Segment:
    """An annotation whose sources were found good.

    Attributes:
        end_s: where the segment ends, which the annotation may leave to the recording.
        rate: Hz of the recording; 0 without audio.
        midi_bytes: what the segment takes of the MIDI file, about; 0 without one.
        content: what tells the sources from others of the same names: the recording's bytes and
            frames, the MIDI's SHA-256.
        window: the packer cut it out of what its line names.
    """

    annotation: Annotation
    end_s: float
    rate: int
    midi_bytes: int
    content: tuple[int | str, ...]
    window: bool = False

    @property
    def duration_s(self) -> float:
        return self.end_s - self.annotation.start_s


def windows(
    start_s: float, end_s: float, *, seconds: float, hop_s: float
) -> list[tuple[float, float]]:
    """(start, end) of windows of ``seconds`` each, ``hop_s`` apart, to the millisecond.

    What is left over at the end becomes a shorter window if it has at least half the length: the
    loader pads it. Less than that is left out.
    """
    found: list[tuple[float, float]] = []
    number = 0
    while True:
        start = round(start_s + number * hop_s, 3)
        end = min(round(start + seconds, 3), end_s)
        if end - start < seconds / 2 - _SLACK_S:
            return found
        found.append((start, end))
        if start + seconds >= end_s - _SLACK_S:
            return found
        number += 1
