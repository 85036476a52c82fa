"""How many bytes samples will take, estimated before they are encoded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from packer.audio import encode, read_segment
from packer.plan import rank
from packer.probe import Segment
from shards.errors import DecodeError
from shards.tar import BLOCK

_TRIED = 8
_TRIED_S = 10.0
_PCM_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that a second of audio takes in a shard."""

    bytes_per_s: float


def estimate_audio(segments: Sequence[Segment], *, codec: str, sample_rate: int) -> Estimate:
    """Encode a few segments, always the same ones, to see what the codec makes of this music."""
    recorded = [segment for segment in segments if segment.rate]
    chosen = sorted(recorded, key=lambda s: rank(0, "size", s.annotation.key))[:_TRIED]
    seconds, size = 0.0, 0
    for segment in chosen:
        audio, start = segment.annotation.audio, segment.annotation.start_s
        assert audio is not None
        end = min(segment.end_s, start + _TRIED_S)
        try:
            samples = read_segment(audio, start_s=start, end_s=end, sample_rate=sample_rate)
        except DecodeError:
            continue  # encoding meets it again and rejects the sample
        seconds += len(samples) / sample_rate
        size += len(encode(samples, sample_rate=sample_rate, codec=codec))
    return Estimate(size / seconds if seconds else _PCM_BYTES * sample_rate)


def plan_bytes(segments: Sequence[Segment], estimate: Estimate) -> list[int]:
    """Bytes of each sample's tar blocks, about."""
    return [_sample_bytes(segment, estimate) for segment in segments]


def _sample_bytes(segment: Segment, estimate: Estimate) -> int:
    record = len(json.dumps(segment.annotation.record, ensure_ascii=False).encode())
    members = [record]
    if segment.rate:
        members.append(round(segment.duration_s * estimate.bytes_per_s))
    if segment.midi_bytes:
        members.append(segment.midi_bytes)
    return sum(BLOCK + size + BLOCK // 2 for size in members)  # on average half a block pads
