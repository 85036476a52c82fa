"""Looks at the sources of annotations before anything is packed: are they there, and whole?"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from packer.audio import AudioInfo, probe_audio
from shards.errors import DataError, DecodeError
from shards.notes import end_time, parse_midi, read_notes
from shards.schema import Annotation, Rejection

_SHORTEST_S = 0.01  # a segment of fewer samples than a codec's frame is a slip of the pen
_CLOCK_S = 0.001  # annotations round their times; a segment may overhang its recording by this


@dataclass(frozen=True, slots=True)
class Segment:
    """An annotation whose sources were found good.

    Attributes:
        end_s: where the segment ends, which the annotation may leave to the recording.
        rate: Hz of the recording; 0 without audio.
        midi_bytes: what the segment takes of the MIDI file, about; 0 without one.
        content: what tells the sources from others of the same names: the recording's bytes and
            frames, the MIDI's SHA-256.
    """

    annotation: Annotation
    end_s: float
    rate: int
    midi_bytes: int
    content: tuple[int | str, ...]

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
    content: tuple[int | str, ...] = ()
    if annotation.audio is not None:
        info = infos[annotation.audio]
        if isinstance(info, DecodeError):
            raise info
        rate, end = info.sample_rate, _end(annotation, info, annotation.audio)
        content = (info.bytes, info.frames)
    elif with_audio is not None:
        raise DecodeError(
            f"has no audio_path, while line {with_audio.line} has one: give it audio with "
            "'python -m packer render', or pack the lines without audio by themselves"
        )
    midi_bytes = 0
    if annotation.midi is not None:
        midi_bytes, end, digest = _check_midi(annotation, annotation.midi, end)
        content = (*content, digest)
    assert end is not None
    return Segment(annotation, end, rate, midi_bytes, content)


def _end(annotation: Annotation, info: AudioInfo, path: Path) -> float:
    """Where a segment ends, which is within its recording."""
    start, duration_s = annotation.start_s, info.duration_s
    end = duration_s if annotation.end_s is None else annotation.end_s
    if end > duration_s + _CLOCK_S:
        raise DecodeError(f"end_time {end} lies past the end of {path}, {duration_s:.3f} s")
    end = min(end, duration_s)
    if start >= end:
        raise DecodeError(f"start_time {start} lies past the end of {path}, {duration_s:.3f} s")
    if end - start < _SHORTEST_S:
        raise DecodeError(f"its segment of {path} is shorter than {_SHORTEST_S} s")
    return end


def _check_midi(annotation: Annotation, path: Path, end: float | None) -> tuple[int, float, str]:
    """Bytes for the segment of a MIDI file that has notes in it, its end, the file's SHA-256."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DecodeError(f"{path}: no such MIDI file") from None
    try:
        whole = end_time(parse_midi(data))
        last = whole if end is None else end
        notes = read_notes(data, start_s=annotation.start_s, end_s=last).table
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
    if not len(notes):
        raise DecodeError(f"{path}: MIDI without notes in [{annotation.start_s}, {last:.3f}) s")
    share = min(1.0, (last - annotation.start_s) / max(whole, _SHORTEST_S))
    return round(len(data) * share), last, sha256(data).hexdigest()
