"""Checks annotations against their sources before anything is packed, and cuts whole recordings."""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from packer.audio import AudioInfo
from packer.copies import Copies, as_it_is
from packer.inspection import MidiInfo, look_at_audio, look_at_midi, read_ahead, same_content
from packer.segments import windows
from shards.faults import FaultError, Kind, Rejection
from shards.schema import Annotation, recut, with_distinct_keys

_SHORTEST_S = 0.01  # a segment of fewer samples than a codec's frame is a slip of the pen
_CLOCK_S = 0.001  # annotations round their times; a segment may overhang its recording by this
_TAIL_S, _TAIL_SHARE = 2.0, 0.05  # how long a recording may go on after the last note is over

_NOTED = {"whole", "segment_s", "hop_s"}

Info = TypeVar("Info", AudioInfo, MidiInfo)
Look = Callable[[Path], AudioInfo | MidiInfo]


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


@dataclass(frozen=True, slots=True)
class Intake:
    """Which samples are made of the annotations, and what is asked of their sources.

    Attributes:
        whole: take whole recordings, one sample each, whatever segment a line names.
        segment_s: cut what a line names into windows of so many seconds; None leaves it.
        hop_s: seconds from window to window; None is ``segment_s``.
        subset: take only so many samples, those of the smallest SHA-256 of their keys.
        tolerance_s: by how much MIDI may outlast its recording. A recording may also ring on for
            2 s and a twentieth of its length.
        io_threads: files opened at a time.
    """

    whole: bool = False
    segment_s: float | None = None
    hop_s: float | None = None
    subset: int | None = None
    tolerance_s: float = 0.5
    io_threads: int = 16

    def __post_init__(self) -> None:
        for name in ("segment_s", "hop_s", "subset", "io_threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.hop_s is not None and self.segment_s is None:
            raise ValueError("hop_s is given without segment_s: there is nothing to cut")
        if min(self.segment_s or 1, self.hop_s or 1) < _SHORTEST_S:
            raise ValueError(f"segment_s and hop_s must be at least {_SHORTEST_S}")
        if self.tolerance_s < 0:
            raise ValueError(f"tolerance_s must not be negative, got {self.tolerance_s}")

    @property
    def noted(self) -> dict[str, Any]:
        """How lines become samples, for a manifest: what is chosen of it."""
        given = {name: getattr(self, name) for name in _NOTED}
        return {name: value for name, value in given.items() if value}

    def as_noted(self, options: Mapping[str, Any]) -> "Intake":
        """With what a manifest's options note, unless something is chosen here."""
        return (
            self
            if self.noted
            else replace(self, **{n: options[n] for n in _NOTED & options.keys()})
        )


@dataclass(frozen=True, slots=True)
class Sources:
    """What is known of every file, or what is wrong with it."""

    audio: Mapping[Path, AudioInfo | FaultError]
    midi: Mapping[Path, MidiInfo | FaultError]

    def audio_of(self, annotation: Annotation) -> AudioInfo | None:
        """Raise FaultError if the recording is not good."""
        return None if annotation.audio is None else _good(self.audio[annotation.audio])

    def midi_of(self, annotation: Annotation) -> MidiInfo | None:
        """Raise FaultError if the MIDI file is not good."""
        return None if annotation.midi is None else _good(self.midi[annotation.midi])


def probe(
    annotations: Sequence[Annotation],
    intake: Intake | None = None,
    *,
    copies: Copies | None = None,
    progress: bool = True,
) -> tuple[list[Segment], list[Rejection]]:
    """Choose and cut the samples of annotations, and check each against its files.

    Args:
        copies: keeps those of files on mounts; None reads all files where they are.

    Returns:
        Segments, in the order of the annotations, and what cannot be packed, with reasons.
    """
    intake = intake or Intake()
    chosen, rejected = list(annotations), list[Rejection]()
    if intake.whole:
        chosen, rejected = with_distinct_keys(_whole(annotations))
    if intake.segment_s is None:
        chosen = _subset(chosen, intake.subset)
    sources = _look(chosen, intake.io_threads, copies, progress)
    if intake.segment_s is not None:
        chosen = _subset(list(_cut(chosen, sources, intake, rejected)), intake.subset)
    segments = list(_checked(chosen, sources, intake, rejected))
    twins = same_content(
        {path: info for path, info in sources.audio.items() if not isinstance(info, FaultError)},
        threads=intake.io_threads,
        progress=progress,
        at=copies.at if copies else as_it_is,
    )
    return list(_without_copies(segments, twins, rejected)), rejected


def _whole(annotations: Iterable[Annotation]) -> list[Annotation]:
    """The first annotation of each recording, as one of all of it."""
    recordings: dict[tuple[Path | None, Path | None], Annotation] = {}
    for annotation in annotations:
        recordings.setdefault((annotation.audio, annotation.midi), annotation)
    return [recut(annotation, None) for annotation in recordings.values()]


def _subset(annotations: list[Annotation], count: int | None) -> list[Annotation]:
    """Those of the smallest SHA-256 of their keys, in their order."""
    if count is None or count >= len(annotations):
        return annotations
    places = heapq.nsmallest(
        count,
        range(len(annotations)),
        key=lambda place: sha256(annotations[place].key.encode()).digest(),
    )
    return [annotations[place] for place in sorted(places)]


def _look(
    annotations: Sequence[Annotation], threads: int, copies: Copies | None, progress: bool
) -> Sources:
    """Look at recordings and MIDI in one pass, as one waits for the link, the other for answers.

    It goes from folder to folder: many mounts look up the files of one after another.
    """

    def look(file: tuple[Look, Path]) -> AudioInfo | MidiInfo:
        return copies.look(*file) if copies else file[0](file[1])

    looks: tuple[Look, Look] = (look_at_audio, look_at_midi)
    files = dict.fromkeys(
        (look, path)
        for annotation in annotations
        for look, path in zip(looks, (annotation.audio, annotation.midi), strict=True)
        if path is not None
    )
    numbers: dict[Path, Iterator[int]] = defaultdict(count)
    places = {file: next(numbers[file[1].parent]) for file in files}
    across = sorted(files, key=places.__getitem__)
    found = read_ahead(across, look, threads=threads, label="sources", progress=progress)
    audio: dict[Path, AudioInfo | FaultError] = {}
    midi: dict[Path, MidiInfo | FaultError] = {}
    for (kind, path), info in found.items():
        if kind is look_at_audio:
            assert not isinstance(info, MidiInfo)
            audio[path] = info
        else:
            assert not isinstance(info, AudioInfo)
            midi[path] = info
    return Sources(audio, midi)


def _cut(
    annotations: Iterable[Annotation],
    sources: Sources,
    intake: Intake,
    rejected: list[Rejection],
) -> Iterator[Annotation]:
    """The windows of annotations, each with a key of its own."""
    assert intake.segment_s is not None
    cut: list[Annotation] = []
    for annotation in annotations:
        try:
            end_s, midi = _end(annotation, sources), sources.midi_of(annotation)
            if midi is not None:
                _require_notes(annotation, midi, end_s)
                _check_lengths(annotation, sources, intake.tolerance_s)
            found = windows(
                annotation.start_s,
                end_s,
                seconds=intake.segment_s,
                hop_s=intake.hop_s or intake.segment_s,
            )
            if not found:
                seconds = end_s - annotation.start_s
                raise FaultError(
                    Kind.SHORT, f"lasts {seconds:.3f} s, less than half of {intake.segment_s:g} s"
                )
        except FaultError as fault:
            rejected.append(_rejection(annotation, fault))
            continue
        cut += [recut(annotation, window) for window in found]
    distinct, duplicates = with_distinct_keys(cut)
    rejected += duplicates
    yield from distinct


def _checked(
    annotations: Sequence[Annotation],
    sources: Sources,
    intake: Intake,
    rejected: list[Rejection],
) -> Iterator[Segment]:
    with_audio = next((one for one in annotations if one.audio is not None), None)
    contents: dict[tuple[int | str, ...], tuple[int | str, ...]] = {}
    for annotation in annotations:
        try:
            if annotation.audio is None and with_audio is not None:
                raise FaultError(
                    Kind.NO_AUDIO,
                    f"has no audio_path, while line {with_audio.line} has one: give it audio with "
                    "'python -m packer render', or pack the lines without audio by themselves",
                )
            segment = _segment(annotation, sources, intake, contents)
        except FaultError as fault:
            rejected.append(_rejection(annotation, fault))
            continue
        yield segment


def _segment(
    annotation: Annotation,
    sources: Sources,
    intake: Intake,
    contents: dict[tuple[int | str, ...], tuple[int | str, ...]],
) -> Segment:
    """Check an annotation against its sources; ``contents`` holds each content once."""
    audio, midi = sources.audio_of(annotation), sources.midi_of(annotation)
    end_s = _end(annotation, sources)
    content: tuple[int | str, ...] = () if audio is None else (audio.bytes, audio.frames)
    midi_bytes = 0
    if midi is not None:
        if intake.segment_s is None:  # what the packer cut may be silent: music has rests
            _require_notes(annotation, midi, end_s)
            _check_lengths(annotation, sources, intake.tolerance_s)
        share = min(1.0, (end_s - annotation.start_s) / max(midi.end_s, _SHORTEST_S))
        midi_bytes, content = round(midi.bytes * share), (*content, midi.sha256)
    content = contents.setdefault(content, content)
    rate = audio.sample_rate if audio else 0
    return Segment(annotation, end_s, rate, midi_bytes, content, intake.segment_s is not None)


def _end(annotation: Annotation, sources: Sources) -> float:
    """Where a segment ends, which is within its recording."""
    audio = sources.audio_of(annotation)
    if audio is None:
        midi = sources.midi_of(annotation)
        assert midi is not None
        return midi.end_s if annotation.end_s is None else annotation.end_s
    path, start_s, duration_s = annotation.audio, annotation.start_s, audio.duration_s
    end_s = duration_s if annotation.end_s is None else annotation.end_s
    if end_s > duration_s + _CLOCK_S:
        reason = f"end_time {end_s} lies past the end of {path}, {duration_s:.3f} s"
        raise FaultError(Kind.OUTSIDE, reason)
    end_s = min(end_s, duration_s)
    if start_s >= end_s:
        reason = f"start_time {start_s} lies past the end of {path}, {duration_s:.3f} s"
        raise FaultError(Kind.OUTSIDE, reason)
    if end_s - start_s < _SHORTEST_S:
        raise FaultError(Kind.OUTSIDE, f"its segment of {path} is shorter than {_SHORTEST_S} s")
    return end_s


def _require_notes(annotation: Annotation, midi: MidiInfo, end_s: float) -> None:
    if not midi.sounds(annotation.start_s, end_s):
        raise FaultError(
            Kind.SILENT_MIDI,
            f"{annotation.midi}: MIDI without notes in [{annotation.start_s}, {end_s:.3f}) s",
        )


def _check_lengths(annotation: Annotation, sources: Sources, tolerance_s: float) -> None:
    """Refuse MIDI and audio that cannot be of one performance, where all of both is meant.

    Notes do not sound after the recording is over. A recording may go on after the last note, as
    strings ring and rooms clap, but not for long.
    """
    audio, midi = sources.audio_of(annotation), sources.midi_of(annotation)
    if audio is None or midi is None or annotation.start_s or annotation.end_s is not None:
        return
    longer_s = audio.duration_s - midi.end_s
    tail_s = _TAIL_S + _TAIL_SHARE * audio.duration_s
    if not -tolerance_s <= longer_s <= tail_s + tolerance_s:
        raise FaultError(
            Kind.LENGTHS,
            f"{annotation.audio} lasts {audio.duration_s:.3f} s and the notes of {annotation.midi} "
            f"{midi.end_s:.3f} s",
        )


def _without_copies(
    segments: Sequence[Segment], copies: Mapping[Path, Path], rejected: list[Rejection]
) -> Iterator[Segment]:
    """Segments but for those whose audio is that of an earlier one: same content, same window."""
    places: dict[Path | None, array[int]] = defaultdict(lambda: array("q"))
    for place, segment in enumerate(segments):
        audio = segment.annotation.audio
        if audio is not None:
            places[copies.get(audio, audio)].append(place)
    twice: dict[int, Annotation] = {}
    for group in places.values():
        first: dict[tuple[float, float], Annotation] = {}
        for place in group:
            annotation = segments[place].annotation
            window = (annotation.start_s, segments[place].end_s)
            if first.setdefault(window, annotation) is not annotation:
                twice[place] = first[window]
    for place, segment in enumerate(segments):
        if place not in twice:
            yield segment
            continue
        other, own = twice[place], segment.annotation
        reason = f"{own.audio}: the audio is that of line {other.line} too, key {other.key!r}"
        rejected.append(_rejection(own, FaultError(Kind.DUPLICATE_AUDIO, reason)))


def _rejection(annotation: Annotation, fault: FaultError) -> Rejection:
    return Rejection(annotation.line, str(fault), annotation.record, fault.kind)


def _good(info: Info | FaultError) -> Info:
    if isinstance(info, FaultError):
        raise info
    return info
