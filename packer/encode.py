"""Encodes segments of a recording into tar blocks; what the worker processes run."""

import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Protocol

from packer.audio import COPY, write_audio
from packer.patience import PatientFile
from packer.recording import SILENT, Level, OpenRecording
from packer.scores import Scores
from packer.table import notes_npy
from shards.errors import DecodeError
from shards.keys import key_hash
from shards.notes import cut_midi, empty_midi
from shards.tar import BLOCK, sample_bytes

JOB_S = 300.0  # seconds of audio that a job encodes, if it has more than one sample
_SERIALS = 1 << 32
_IN_MEMORY_BYTES = 8 << 20  # of an audio member; a longer one is encoded into a file
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Task:
    """One sample to encode.

    Attributes:
        record: its JSON, but for what is computed here.
        whole: the segment is all of its sources, so that their files may go along as they are.
        window: the packer cut it, so it may be silent: music has rests.
    """

    index: int
    key: str
    audio: Path | None
    midi: Path | None
    start_s: float
    end_s: float
    whole: bool
    record: Mapping[str, Any]
    window: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """Samples of one recording.

    Attributes:
        spool: where their tar blocks will be; beside it lies meanwhile what memory does not hold.
        extension: of the audio members.
        with_midi: every sample has a MIDI file.
        with_notes: and beside it a table of its notes.
    """

    spool: Path
    tasks: tuple[Task, ...]
    codec: str
    extension: str
    sample_rate: int
    channels: int
    with_midi: bool
    with_notes: bool


class Spooled(Protocol):
    """A file that is only appended to."""

    def write(self, data: bytes, /) -> object: ...

    def tell(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Where a sample lies in its spool file; or, with ``reason``, why it could not be encoded.

    Attributes:
        clipped: its recording was too loud for its format there.
    """

    index: int
    offset: int = 0
    size: int = 0
    duration_s: float = 0.0
    reason: str = ""
    clipped: bool = False


def shares(samples: Iterable[int], seconds: Sequence[float]) -> list[list[int]]:
    """Samples of a recording in jobs of about ``JOB_S``, so that all cores share a long one.

    Args:
        samples: in order; each is a place in ``seconds``.
    """
    found: list[list[int]] = []
    room_s = 0.0
    for sample in samples:
        if not found or seconds[sample] > room_s:
            found.append([])
            room_s = JOB_S
        found[-1].append(sample)
        room_s -= seconds[sample]
    return found


def encode_recording(job: Job, spool: Spooled) -> list[Encoded]:
    """Encode every task of a job.

    Args:
        spool: what the blocks are appended to, whatever will be named ``job.spool``.

    Raises:
        FetchError: if the disk or mount of its sources is away.
        OSError: if the spool cannot be written.
    """
    results: list[Encoded] = []
    scores = Scores()
    with OpenRecording(job.tasks[0].audio) as recording:
        for task in job.tasks:
            try:
                results.append(_encode_sample(task, job, recording, scores, spool))
            except DecodeError as error:
                results.append(Encoded(task.index, reason=str(error)))
    return results


def _encode_sample(
    task: Task, job: Job, recording: OpenRecording, scores: Scores, spool: Spooled
) -> Encoded:
    """Append the tar blocks of a sample to the spool.

    Raises:
        DecodeError: if a source cannot be packed; nothing is appended then.
    """
    midi, place = _midi(task, scores, with_notes=job.with_notes) if job.with_midi else ({}, {})
    computed: dict[str, Any] = {"duration": task.end_s - task.start_s}
    offset, level = spool.tell(), Level()
    if task.audio is not None:
        with _member_file(task.audio, job) as file:
            encode = _check_copy if job.codec == COPY else _encode_audio
            rate, frames = encode(task, job, recording, file, level)
            if not task.window:
                _refuse_silence(task, level)
            _append(spool, f"{task.key}.{job.extension}", file)
        computed = {"sample_rate": rate, "frames": frames, "duration": frames / rate}
    record = json.dumps({**task.record, **computed, **place}, ensure_ascii=False, allow_nan=False)
    spool.write(sample_bytes(task.key, {"json": record.encode(), **midi}))
    size, duration_s = spool.tell() - offset, float(computed["duration"])
    return Encoded(task.index, offset, size, duration_s, clipped=level.clipped)


def _member_file(audio: Path, job: Job) -> IO[bytes]:
    """Where the bytes of an audio member are: the recording, or what is to be filled."""
    if job.codec == COPY:
        return BufferedReader(PatientFile(audio))
    return SpooledTemporaryFile(_IN_MEMORY_BYTES, "w+b", dir=str(job.spool.parent))


def _encode_audio(
    task: Task, job: Job, recording: OpenRecording, file: IO[bytes], level: Level
) -> tuple[int, int]:
    """Encode a segment into an empty file; its rate and frames."""
    blocks = recording.segment(
        start_s=task.start_s,
        end_s=task.end_s,
        sample_rate=job.sample_rate,
        channels=job.channels,
        level=level,
    )
    frames = write_audio(
        file,
        blocks,
        codec=job.codec,
        sample_rate=job.sample_rate,
        channels=job.channels,
        serial=key_hash(task.key) % _SERIALS,
    )
    return job.sample_rate, frames


def _check_copy(
    _task: Task, _job: Job, recording: OpenRecording, _file: IO[bytes], level: Level
) -> tuple[int, int]:
    """Decode a recording that goes along as it is, to hear that it is whole; its rate and frames.

    Raises:
        DecodeError: if it is not.
    """
    rate = recording.sample_rate
    blocks = recording.segment(start_s=0.0, end_s=None, sample_rate=rate, channels=1, level=level)
    return rate, sum(map(len, blocks))


def _refuse_silence(task: Task, level: Level) -> None:
    if level.peak <= SILENT:
        raise DecodeError(
            f"{task.audio}: silent from {task.start_s:.3f} to {task.end_s:.3f} s: nowhere above "
            "-90 dBFS"
        )


def _midi(
    task: Task, scores: Scores, *, with_notes: bool
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The MIDI members of a segment, and where in the source's meter it starts."""
    data, place = _cut_midi(task, scores)
    members = {"mid": data}
    if with_notes:
        members["notes.npy"] = notes_npy(data, beat=place["midi_beat"])
    return members, place


def _cut_midi(task: Task, scores: Scores) -> tuple[bytes, dict[str, Any]]:
    if task.midi is None:
        return empty_midi(), {"midi_bar": 0, "midi_beat": 0.0, "has_midi": False}
    data, score, end_s = scores.read(task.midi)
    if task.whole and end_s <= task.end_s:
        return data, {"midi_bar": 0, "midi_beat": 0.0, "has_midi": True}
    cut = cut_midi(score, start_s=task.start_s, end_s=task.end_s)
    return cut.midi, {"midi_bar": cut.bar, "midi_beat": cut.beat, "has_midi": True}


def _append(spool: Spooled, name: str, file: IO[bytes]) -> None:
    """Append a file as a member: its header, its bytes and padding, as ``sample_bytes`` does."""
    header = tarfile.TarInfo(name)
    header.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    spool.write(header.tobuf(tarfile.USTAR_FORMAT))
    shutil.copyfileobj(file, spool, _CHUNK_BYTES)
    spool.write(bytes(-header.size % BLOCK))
