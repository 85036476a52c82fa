"""The samples of an annotation file: their JSON, which split each goes to, and their identity."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packer.audio import CODECS, COPY
from packer.copies import Copies, as_it_is
from packer.copying import copied_extension, copyable
from packer.inputs import read_input
from packer.intake import Intake
from packer.interrupt import held_back
from packer.options import Options
from packer.partition import partition
from packer.plan import Group, plan_groups
from packer.probe import probe
from packer.segments import Segment
from packer.sizes import estimate_audio, plan_bytes
from packer.slips import slips
from shards.faults import Rejection
from shards.records import Unified
from shards.schema import Annotation, Rules

log = logging.getLogger("packer")


@dataclass(frozen=True, slots=True)
class Corpus:
    """What all samples of an annotation file share, whichever split they go to.

    Attributes:
        labels: names, in order.
        extension: of audio members; empty without audio.
    """

    labels: tuple[str, ...]
    extension: str
    has_midi: bool

    def members(self, options: Options) -> dict[str, str]:
        """Extension of each modality that samples have."""
        audio = {"audio": self.extension} if self.extension else {}
        midi = {"midi": "mid"} if self.has_midi else {}
        notes = {"notes": "notes.npy"} if midi and options.midi == "notes" else {}
        return audio | midi | notes


@dataclass(frozen=True, slots=True)
class Samples:
    """What can be packed of an annotation file, and what cannot.

    Attributes:
        parts: which samples go to each split; all of them to one without name, without splits.
    """

    segments: Sequence[Segment]
    records: Unified
    corpus: Corpus
    parts: Mapping[str, Sequence[int]]
    rejected: Sequence[Rejection]

    @property
    def total(self) -> int:
        """Number of annotations, of each of which any number of samples may be cut."""
        lines = {segment.annotation.line for segment in self.segments}
        return len(lines | {rejection.line for rejection in self.rejected})

    @property
    def identity(self) -> str:
        """SHA-256 of keys, lines and content of sources; nothing in it is of this machine."""
        digest = sha256(json.dumps(self.records.layout.outline()).encode())
        for segment in self.segments:
            annotation = segment.annotation
            told = f"{annotation.key}\0{annotation.source}\0{segment.content}\0"
            digest.update(told.encode() + annotation.text)
        return digest.hexdigest()

    def part(self, split: str) -> "Samples":
        """The samples of one split."""
        part = self.parts[split]
        segments = [self.segments[index] for index in part]
        return replace(self, segments=segments, records=self.records.take(part))


def read_samples(
    annotations: Path,
    rules: Rules,
    *,
    options: Options,
    intake: Intake | None = None,
    copies: Copies | None = None,
    taken: NDArray[np.uint64] | None = None,
    with_midi: bool = False,
    progress: bool = True,
) -> Samples:
    """Read and check annotations and their sources, and divide them among the splits.

    Args:
        copies: keeps those of files on mounts; None reads all files where they are.
        taken: hashes of keys that a dataset has already, whose samples are left out.
        with_midi: whether samples have MIDI files even if no line names one.

    Raises:
        AnnotationError: if there are none, or a line lacks the field to group by.
        ValueError: if a split would be empty.
    """
    reading = read_input(annotations, rules)
    for slip in slips(reading.layout.names()):
        log.warning("%s: %s", annotations, slip)
    if intake is not None and intake.segment_s is not None:
        reading.layout.add(0, {"start_time": 0.0, "end_time": 0.0})
    segments, more = probe(
        reading.annotations, intake, taken=taken, copies=copies, progress=progress
    )
    extension = _extension(segments, options.audio)
    if options.audio == COPY:
        segments, unfit = copyable(segments, extension)
        more += unfit
    kept = [segment.annotation for segment in segments]
    record = partial(_record, root=rules.root, labels=reading.label_names)
    return Samples(
        segments,
        Unified(kept, record, reading.layout),
        Corpus(
            reading.label_names,
            extension=extension,
            has_midi=with_midi or any(annotation.midi is not None for annotation in kept),
        ),
        partition(kept, options, source=annotations) if kept else {"": ()},
        [*reading.rejected, *more],
    )


def plan_samples(
    segments: Sequence[Segment], options: Options, *, at: Callable[[Path], Path] = as_it_is
) -> list[Group]:
    """Groups of recordings and their shards, by sizes measured on a few of them.

    Args:
        at: where to read a recording.
    """
    with held_back():
        audio = estimate_audio(
            segments,
            codec=options.audio,
            sample_rate=options.sample_rate,
            channels=options.channels,
            at=at,
        )
    return plan_groups(
        segments,
        plan_bytes(segments, audio, with_notes=options.midi == "notes"),
        seed=None if options.order == "given" else options.seed,
        group_bytes=options.group_bytes,
        shard_bytes=options.shard_bytes,
    )


def _extension(segments: Sequence[Segment], codec: str) -> str:
    audio = (segment.annotation.audio for segment in segments)
    recordings = [path for path in audio if path is not None]
    if not recordings:
        return ""
    return copied_extension(recordings) if codec == COPY else CODECS[codec].extension


def _record(annotation: Annotation, *, root: Path, labels: Sequence[str]) -> dict[str, Any]:
    """The JSON of a sample before the union with others: paths from the root, labels as floats."""
    record = annotation.record
    for name, path in (("audio_path", annotation.audio), ("midi_path", annotation.midi)):
        if path is not None and (inside := _from_root(path, root)) is not None:
            record[name] = inside
    for name in ("start_time", "end_time"):
        if record.get(name) is not None:
            record[name] = float(record[name])
    if labels:
        given = ((name, (record.get("labels") or {}).get(name)) for name in labels)
        record["labels"] = {name: None if value is None else float(value) for name, value in given}
    return record


@lru_cache(maxsize=1 << 16)
def _from_root(path: Path, root: Path) -> str | None:
    """A path as it is written from the root; None if it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None
