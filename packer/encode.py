"""Encodes the segments of a recording into tar blocks; what the worker processes run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packer.audio import EXTENSIONS, encode, read_segment
from shards.errors import DecodeError
from shards.notes import cut_midi, empty_midi, end_time, parse_midi
from shards.tar import sample_bytes


@dataclass(frozen=True, slots=True)
class Task:
    """One sample to encode.

    Attributes:
        record: its JSON, but for what is computed here.
        whole: the segment is all of its sources, so that the MIDI file goes along as it is.
    """

    index: int
    key: str
    audio: Path | None
    midi: Path | None
    start_s: float
    end_s: float
    whole: bool
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """The tasks of one recording, and the file that their tar blocks are appended to."""

    spool: Path
    tasks: tuple[Task, ...]
    codec: str
    sample_rate: int
    with_midi: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """Where a sample lies in its spool file; or, with ``reason``, why it could not be encoded."""

    index: int
    offset: int = 0
    size: int = 0
    duration_s: float = 0.0
    reason: str = ""


def encode_recording(job: Job) -> list[Encoded]:
    """Encode every task of a job into its spool file."""
    results: list[Encoded] = []
    with job.spool.open("wb") as spool:
        for task in job.tasks:
            try:
                blocks, duration_s = encode_sample(task, job)
            except DecodeError as error:
                results.append(Encoded(task.index, reason=str(error)))
                continue
            results.append(Encoded(task.index, spool.tell(), len(blocks), duration_s))
            spool.write(blocks)
    return results


def encode_sample(task: Task, job: Job) -> tuple[bytes, float]:
    """The tar blocks of a sample, and its duration in seconds.

    Raises:
        DecodeError: if a source cannot be read to the end of the segment.
    """
    members: dict[str, bytes] = {}
    computed: dict[str, Any] = {"duration": task.end_s - task.start_s}
    if task.audio is not None:
        samples = read_segment(
            task.audio, start_s=task.start_s, end_s=task.end_s, sample_rate=job.sample_rate
        )
        members[EXTENSIONS[job.codec]] = encode(
            samples, sample_rate=job.sample_rate, codec=job.codec
        )
        computed = {"sample_rate": job.sample_rate, "frames": len(samples)}
        computed["duration"] = len(samples) / job.sample_rate
    if job.with_midi:
        midi, place = _midi(task)
        computed |= place
    record = json.dumps({**task.record, **computed}, ensure_ascii=False, allow_nan=False)
    members["json"] = record.encode()
    if job.with_midi:
        members["mid"] = midi
    return sample_bytes(task.key, members), float(computed["duration"])


def _midi(task: Task) -> tuple[bytes, dict[str, Any]]:
    """The MIDI of a segment, and where in the source's meter it starts."""
    if task.midi is None:
        return empty_midi(), {"midi_bar": 0, "midi_beat": 0.0, "has_midi": False}
    try:
        data = task.midi.read_bytes()
        score = parse_midi(data)
    except (OSError, DecodeError) as error:
        raise DecodeError(f"{task.midi}: {error}") from error
    if task.whole and end_time(score) <= task.end_s:
        return data, {"midi_bar": 0, "midi_beat": 0.0, "has_midi": True}
    cut = cut_midi(score, start_s=task.start_s, end_s=task.end_s)
    return cut.midi, {"midi_bar": cut.bar, "midi_beat": cut.beat, "has_midi": True}
