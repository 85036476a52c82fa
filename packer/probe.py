"""Checks annotations against their sources before anything is packed, and cuts whole recordings."""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from packer.copies import Copies, as_it_is
from packer.inspection import MidiInfo, same_content
from packer.intake import Intake
from packer.segments import SHORTEST_S, Segment, windows
from packer.sources import Sources, look_at
from shards.faults import FaultError, Kind, Rejection
from shards.keys import key_hash
from shards.schema import Annotation, other_key, recut, with_distinct_keys

_CLOCK_S = 0.001  # annotations round their times; a segment may overhang its recording by this
_TAIL_S, _TAIL_SHARE = 2.0, 0.05  # how long a recording may go on after the last note is over

_Windows = dict[Path, dict[tuple[float, float], Annotation]]  # of recordings: start, end in seconds


def probe(
    annotations: Sequence[Annotation],
    intake: Intake | None = None,
    *,
    taken: NDArray[np.uint64] | None = None,
    copies: Copies | None = None,
    progress: bool = True,
) -> tuple[list[Segment], list[Rejection]]:
    """Choose and cut the samples of annotations, and check each against its files.

    Args:
        taken: hashes of keys that a dataset has already, whose samples cannot be packed again.
        copies: keeps those of files on mounts; None reads all files where they are.

    Returns:
        Segments, in the order of the annotations, and what cannot be packed, with reasons.
    """
    intake = intake or Intake()
    chosen, rejected = list(annotations), list[Rejection]()
    if intake.whole:
        chosen, rejected = with_distinct_keys(_whole(annotations))
    known: list[Annotation] = []
    if intake.segment_s is None:
        chosen, known = _unknown(_subset(chosen, intake.subset), taken, rejected)
    sources = look_at(chosen, threads=intake.io_threads, copies=copies, progress=progress)
    if intake.segment_s is not None:
        cut = _subset(list(_cut(chosen, sources, intake, rejected)), intake.subset)
        chosen, known = _unknown(cut, taken, rejected)
    segments = list(_checked(chosen, sources, intake, rejected))
    twins = same_content(
        {path: info for path, info in sources.audio.items() if not isinstance(info, FaultError)},
        threads=intake.io_threads,
        progress=progress,
        at=copies.at if copies else as_it_is,
    )
    places = _by_recording(segments, twins)
    there = _windows_there(known, sources, twins, places)
    return list(_without_copies(segments, places, there, rejected)), rejected


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


def _unknown(
    annotations: list[Annotation], taken: NDArray[np.uint64] | None, rejected: list[Rejection]
) -> tuple[list[Annotation], list[Annotation]]:
    """Annotations but for those whose keys are taken, and those."""
    if taken is None:
        return annotations, []
    reasons = _reasons(annotations, taken)
    unknown, known = list[Annotation](), list[Annotation]()
    for place, annotation in enumerate(annotations):
        if place not in reasons:
            unknown.append(annotation)
            continue
        known.append(annotation)
        rejected.append(_rejection(annotation, FaultError(Kind.KNOWN_KEY, reasons[place])))
    return unknown, known


def _reasons(annotations: Sequence[Annotation], taken: NDArray[np.uint64]) -> dict[int, str]:
    """Why some annotations are not packed again, by place.

    A path has a hash in its key only among lines of like paths. Such lines may have come or gone
    since it was packed, so it may be there under the other form of its key.
    """
    reasons = {
        place: f"key {annotations[place].key!r} is in the dataset already"
        for place in _places_of([one.key for one in annotations], taken)
    }
    rest = [place for place in range(len(annotations)) if place not in reasons]
    others = [other_key(annotations[place]) for place in rest]
    for number in _places_of(others, taken):
        one = annotations[rest[number]]
        reasons[rest[number]] = (
            f"key {others[number]!r} is in the dataset already, and {one.source} may have been "
            f"packed under it; if it was not, give the line a 'key', such as {one.key!r}"
        )
    return reasons


def _places_of(keys: Sequence[str], taken: NDArray[np.uint64]) -> list[int]:
    """Places of the keys that are taken."""
    hashes = np.array([key_hash(key) for key in keys], dtype=np.uint64)
    places: list[int] = np.flatnonzero(np.isin(hashes, taken)).tolist()
    return places


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
        share = min(1.0, (end_s - annotation.start_s) / max(midi.end_s, SHORTEST_S))
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
    if end_s - start_s < SHORTEST_S:
        raise FaultError(Kind.OUTSIDE, f"its segment of {path} is shorter than {SHORTEST_S} s")
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


def _by_recording(
    segments: Sequence[Segment], copies: Mapping[Path, Path]
) -> "dict[Path, array[int]]":
    """Places of segments with audio, by the first recording of the same content."""
    places: dict[Path, array[int]] = defaultdict(lambda: array("q"))
    for place, segment in enumerate(segments):
        audio = segment.annotation.audio
        if audio is not None:
            places[copies.get(audio, audio)].append(place)
    return places


def _windows_there(
    known: Iterable[Annotation],
    sources: Sources,
    copies: Mapping[Path, Path],
    recordings: Container[Path],
) -> _Windows:
    """The windows that a dataset has already of some recordings, each with the line that says so.

    Nothing is opened for it: the recordings are those of new lines.
    """
    found: _Windows = defaultdict(dict)
    for annotation in known:
        audio = annotation.audio
        if audio is None or (recording := copies.get(audio, audio)) not in recordings:
            continue
        try:
            window = (annotation.start_s, _end(annotation, sources))
        except FaultError:  # what is there was packed of a longer recording
            continue
        found[recording].setdefault(window, annotation)
    return found


def _without_copies(
    segments: Sequence[Segment],
    places: Mapping[Path, Sequence[int]],
    there: _Windows,
    rejected: list[Rejection],
) -> Iterator[Segment]:
    """Segments but for those whose audio is that of an earlier one: same content, same window.

    Args:
        places: of the segments of each recording.
        there: as ``_windows_there``; they are earlier than all segments.
    """
    twice: dict[int, Annotation] = {}
    for recording, group in places.items():
        first = dict(there.get(recording, {}))
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
