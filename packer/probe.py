"""Looks at the sources of annotations before anything is packed: are they there, and whole?"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from packer.audio import AudioInfo, probe_audio
from shards.errors import DataError, DecodeError
from shards.notes import end_time, parse_midi, read_notes
from shards.schema import Annotation, Rejection

_CLOCK_S = 0.001  # annotations round their times; a segment may overhang its recording by this


@dataclass(frozen=True, slots=True)
class Segment:
    """An annotation whose sources were found good.

    Attributes:
        end_s: where the segment ends, which the annotation may leave to the recording.
        rate: Hz of the recording; 0 without audio.
        midi_bytes: size of the MIDI file; 0 without one.
    """

    annotation: Annotation
    end_s: float
    rate: int
    midi_bytes: int

    @property
    def duration_s(self) -> float:
        return self.end_s - self.annotation.start_s


def probe(
    annotations: Sequence[Annotation], *, threads: int = 16, progress: bool = True
) -> tuple[list[Segment], list[Rejection]]:
    """Check every annotation against its files.

    Args:
        threads: files looked at in parallel, which a slow mount rewards.

    Returns:
        Segments, in the order of the annotations, and what cannot be packed, with reasons.
    """
    with_audio = next((a for a in annotations if a.audio is not None), None)
    recordings = list(dict.fromkeys(a.audio for a in annotations if a.audio is not None))
    segments: list[Segment] = []
    rejected: list[Rejection] = []
    with ThreadPoolExecutor(threads) as pool:
        infos = dict(zip(recordings, pool.map(_info, recordings), strict=True))
        results = pool.map(lambda a: _segment(a, infos, with_audio), annotations)
        bar = tqdm(
            results,
            total=len(annotations),
            desc="checking",
            unit=" samples",
            disable=None if progress else True,
        )
        for result in bar:
            if isinstance(result, Segment):
                segments.append(result)
            else:
                rejected.append(result)
    return segments, rejected


def _info(path: Path) -> AudioInfo | DecodeError:
    try:
        return probe_audio(path)
    except DecodeError as error:
        return error


def _segment(
    annotation: Annotation,
    infos: dict[Path, AudioInfo | DecodeError],
    with_audio: Annotation | None,
) -> Segment | Rejection:
    try:
        return _checked(annotation, infos, with_audio)
    except DataError as error:
        return Rejection(annotation.line, str(error), annotation.record)


def _checked(
    annotation: Annotation,
    infos: dict[Path, AudioInfo | DecodeError],
    with_audio: Annotation | None,
) -> Segment:
    rate, end = 0, annotation.end_s
    if annotation.audio is not None:
        info = infos[annotation.audio]
        if isinstance(info, DecodeError):
            raise info
        rate, end = info.sample_rate, _end(annotation, info.duration_s, annotation.audio)
    elif with_audio is not None:
        raise DecodeError(
            f"has no audio_path, while line {with_audio.line} has one: give it audio with "
            "'python -m packer render', or pack the lines without audio by themselves"
        )
    midi_bytes = 0
    if annotation.midi is not None:
        midi_bytes, end = _check_midi(annotation, annotation.midi, end)
    assert end is not None
    return Segment(annotation, end, rate, midi_bytes)


def _end(annotation: Annotation, duration_s: float, path: Path) -> float:
    """Where a segment ends, which is within its recording."""
    end = duration_s if annotation.end_s is None else annotation.end_s
    if end > duration_s + _CLOCK_S:
        raise DecodeError(f"end_time {end} lies past the end of {path}, {duration_s:.3f} s")
    if annotation.start_s >= min(end, duration_s):
        start = annotation.start_s
        raise DecodeError(f"start_time {start} lies past the end of {path}, {duration_s:.3f} s")
    return min(end, duration_s)


def _check_midi(annotation: Annotation, path: Path, end: float | None) -> tuple[int, float]:
    """Size of a MIDI file that has notes in the segment, and where the segment ends."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DecodeError(f"{path}: no such MIDI file") from None
    try:
        last = end_time(parse_midi(data)) if end is None else end
        notes = read_notes(data, start_s=annotation.start_s, end_s=last).table
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
    if not len(notes):
        raise DecodeError(f"{path}: MIDI without notes in [{annotation.start_s}, {last:.3f}) s")
    return len(data), last
