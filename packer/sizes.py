"""How many bytes samples will take, estimated before they are encoded."""

import heapq
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from packer.audio import COPY, write_audio
from packer.copies import as_it_is
from packer.plan import ranking
from packer.recording import OpenRecording
from packer.segments import Segment
from shards.errors import DecodeError
from shards.tar import BLOCK

_TRIED = 8
_TRIED_S = 10.0
_PCM_BYTES = 2.0
_TABLE_BYTES = 3.0  # of a table of notes, for a byte of their MIDI file: 24 for some 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that a second of audio takes in a shard; None where recordings go along as they are."""

    bytes_per_s: float | None


def estimate_audio(
    segments: Sequence[Segment],
    *,
    codec: str,
    sample_rate: int,
    channels: int = 1,
    at: Callable[[Path], Path] = as_it_is,
) -> Estimate:
    """Encode a few segments, always the same ones, to see what the codec makes of this music.

    Args:
        at: where to read a recording.
    """
    if codec == COPY:
        return Estimate(None)
    recorded, ranked = (segment for segment in segments if segment.rate), ranking(0, "size")
    chosen = heapq.nsmallest(_TRIED, recorded, key=lambda segment: ranked(segment.annotation.key))
    total_s, size = 0.0, 0
    for segment in chosen:
        assert segment.annotation.audio is not None
        member, start = BytesIO(), segment.annotation.start_s
        end = min(segment.end_s, start + _TRIED_S)
        try:
            with OpenRecording(at(segment.annotation.audio)) as source:
                blocks = source.segment(
                    start_s=start, end_s=end, sample_rate=sample_rate, channels=channels
                )
                write_audio(member, blocks, codec=codec, sample_rate=sample_rate, channels=channels)
        except DecodeError:
            continue  # encoding meets it again and rejects the sample
        total_s += end - start
        size += len(member.getvalue())
    return Estimate(size / total_s if total_s else _PCM_BYTES * sample_rate * channels)


def plan_bytes(
    segments: Sequence[Segment], estimate: Estimate, *, with_notes: bool = False
) -> "array[int]":
    """Bytes of each sample's tar blocks, about."""
    return array("q", (_sample_bytes(segment, estimate, with_notes) for segment in segments))


def _sample_bytes(segment: Segment, estimate: Estimate, with_notes: bool) -> int:
    members = [len(segment.annotation.text)]
    if segment.rate and estimate.bytes_per_s is None:
        members.append(int(segment.content[0]))
    elif segment.rate and estimate.bytes_per_s is not None:
        members.append(round(segment.duration_s * estimate.bytes_per_s))
    if segment.midi_bytes:
        members.append(segment.midi_bytes)
        members += [round(_TABLE_BYTES * segment.midi_bytes)] if with_notes else []
    return sum(BLOCK + size + BLOCK // 2 for size in members)  # on average half a block pads
