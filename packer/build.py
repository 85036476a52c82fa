"""Builds a dataset: reads and checks annotations, encodes their segments, writes the shards."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from packer.audio import EXTENSIONS
from packer.encode import Encoded, Job, Task, encode_recording
from packer.journal import Done, Journal
from packer.options import Options
from packer.plan import Group, assign_splits, plan_groups
from packer.probe import Segment, probe
from packer.report import Report
from packer.shard import Written, write_shards
from packer.sizes import estimate_audio, plan_bytes
from packer.spread import spread
from packer.summary import label_stats
from packer.target import Target
from shards import __version__
from shards.errors import AnnotationError, ManifestError
from shards.keys import keys_bytes
from shards.manifest import NAME, Manifest, dump_manifest
from shards.records import unify
from shards.schema import Annotation, Rejection, label_names, read_annotations

log = logging.getLogger("packer")


@dataclass(frozen=True, slots=True)
class Built:
    """One dataset that was made, or found complete."""

    url: str
    manifest: Manifest
    made: bool


def build(
    annotations: Path,
    out: str,
    *,
    options: Options | None = None,
    root: Path | None = None,
    rewrite: Mapping[str, str] | None = None,
    name: str | None = None,
    workers: int | None = None,
    max_rejected: float = 0.0,
    overwrite: bool = False,
    storage_options: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[Built]:
    """Pack an annotation file into a dataset, or one dataset a split.

    All annotations and their sources are checked before anything is written; files appear whole
    and the manifest last. The same input and options give the same bytes, whatever ``workers``.

    Args:
        annotations: JSONL, one sample a line.
        out: URL of the folder to make.
        root: folder that relative paths start from; None is the annotation file's.
        rewrite: path prefixes to replace.
        name: of the dataset; None is the annotation file's stem.
        workers: encoding processes; None is one a core, 0 this one.
        max_rejected: share of the annotations that may be left out.
        overwrite: replace another dataset in ``out``.
        storage_options: passed to fsspec.

    Raises:
        AnnotationError: if more than ``max_rejected`` cannot be packed; nothing is written then.
        ManifestError: if ``out`` holds another dataset.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    options = options or Options()
    root = Path(os.path.abspath(annotations.parent if root is None else root))
    checked, rejected = read_annotations(annotations, root=root, rewrite=rewrite)
    segments, more = probe(checked, progress=progress)
    report = Report(annotations, len(checked) + len(rejected), max_rejected, [*rejected, *more])
    report.check()
    if not segments:
        raise AnnotationError(f"{annotations}: none of its annotations can be packed")
    target = Target(out, storage_options)
    corpus = _Corpus.of(segments, root)
    builders = [
        _Builder(
            [segments[i] for i in part],
            [corpus.records[i] for i in part],
            corpus=corpus,
            options=options,
            target=target.child(split) if split else target,
            name=name or annotations.stem,
        )
        for split, part in _split(segments, corpus.records, options).items()
    ]
    _refuse_mixture(target, options.split)
    for builder in builders:  # all of them before the first one writes
        builder.journal.refuse_other_data(overwrite=overwrite)
    built = [builder.run(report, workers=workers, progress=progress) for builder in builders]
    if any(one.made for one in built):
        if report.rejected:
            target.write("rejected.jsonl", report.lines())
            left_out, url = len(report.rejected), target.url
            log.warning("%d of %d left out: %s/rejected.jsonl", left_out, report.total, url)
        else:
            target.remove("rejected.jsonl")
    return built


def _refuse_mixture(target: Target, splits: Collection[str]) -> None:
    """A folder holds a dataset or its splits; what --overwrite would leave behind is not mixed in.

    Raises:
        ManifestError: if it holds a dataset beside which this one would lie.
    """
    names = target.names()
    others = [NAME] if splits and NAME in names else []
    folders = [name for name in names if "." not in name and name not in splits]
    others += [f"{name}/{NAME}" for name in folders if NAME in target.child(name).names()]
    if others:
        raise ManifestError(
            f"{target.url}: holds {others[0]}, a dataset of other splits; choose another folder"
        )


@dataclass(frozen=True, slots=True)
class _Corpus:
    """What all samples of an annotation file share, whichever split they go to."""

    records: list[dict[str, Any]]
    labels: tuple[str, ...]
    has_audio: bool
    has_midi: bool

    @classmethod
    def of(cls, segments: Sequence[Segment], root: Path) -> "_Corpus":
        annotations = [segment.annotation for segment in segments]
        labels = label_names(annotations)
        return cls(
            unify(_record(annotation, root, labels) for annotation in annotations),
            labels,
            any(annotation.audio is not None for annotation in annotations),
            any(annotation.midi is not None for annotation in annotations),
        )


class _Builder:
    """Makes one dataset, group after group."""

    def __init__(
        self,
        segments: Sequence[Segment],
        records: Sequence[dict[str, Any]],
        *,
        corpus: _Corpus,
        options: Options,
        target: Target,
        name: str,
    ) -> None:
        self._segments, self._records, self._corpus = segments, records, corpus
        self._options, self._target, self._name = options, target, name
        self._identity = asdict(options) | {"input_sha256": _input_hash(segments, records)}
        self.journal = Journal(target, name, self._identity)

    def run(self, report: Report, *, workers: int | None, progress: bool) -> Built:
        """Make what is missing of the dataset."""
        finished = self.journal.finished()
        if finished is not None:
            self.journal.end()  # notes of a run that was killed right at its end
            return Built(self._target.url, finished, made=False)
        self.journal.begin()
        shards: list[Written] = []
        durations: dict[int, float] = {}
        groups = self._plan()
        for number, group in enumerate(groups):
            done = self.journal.group(number, group.shards)
            if done is None:
                done = self._make_group(group, len(shards), report, workers, progress)
                self.journal.finish_group(number, done)
            else:
                report.rejected += [self._rejection(i, why) for i, why in done.rejected.items()]
            shards += done.shards
            durations |= done.durations
        manifest = self._manifest(shards, durations)
        self._target.write("keys.bin", keys_bytes(self._keys(shard) for shard in shards))
        self._target.write(NAME, dump_manifest(manifest))
        self.journal.end()
        return Built(self._target.url, manifest, made=True)

    def _plan(self) -> list[Group]:
        options = self._options
        audio = estimate_audio(self._segments, codec=options.audio, sample_rate=options.sample_rate)
        return plan_groups(
            self._segments,
            plan_bytes(self._segments, audio),
            seed=options.seed,
            group_bytes=options.group_bytes,
            shard_bytes=options.shard_bytes,
        )

    def _make_group(
        self, group: Group, first: int, report: Report, workers: int | None, progress: bool
    ) -> Done:
        """Encode a group and move its shards to the target."""
        with tempfile.TemporaryDirectory(prefix="packer-") as folder:
            encoded = self._encode(group, Path(folder), workers, progress)
            rejected = {i: place.reason for i, (_, place) in encoded.items() if place.reason}
            report.rejected += [self._rejection(index, why) for index, why in rejected.items()]
            report.check()
            good = {i: found for i, found in encoded.items() if i not in rejected}
            shards = []
            for shard in write_shards(group.shards, good, Path(folder), first=first):
                for name in (shard.info.url, f"{shard.info.url}.idx"):
                    self._target.put(Path(folder) / name, name)
                shards.append(shard)
        return Done(shards, {i: place.duration_s for i, (_, place) in good.items()}, rejected)

    def _encode(
        self, group: Group, folder: Path, workers: int | None, progress: bool
    ) -> dict[int, tuple[Path, Encoded]]:
        """Encode all recordings of a group; spool file and place in it, by sample."""
        jobs = [
            self._job(recording.indices, folder / f"{number}.blocks")
            for number, recording in enumerate(group.recordings)
        ]
        results = spread(
            encode_recording, jobs, workers=workers, label="recordings", progress=progress
        )
        return {
            place.index: (job.spool, place)
            for job, places in zip(jobs, results, strict=True)
            for place in places
        }

    def _job(self, indices: Sequence[int], spool: Path) -> Job:
        tasks = tuple(self._task(index) for index in indices)
        options = self._options
        return Job(spool, tasks, options.audio, options.sample_rate, self._corpus.has_midi)

    def _task(self, index: int) -> Task:
        segment = self._segments[index]
        annotation = segment.annotation
        return Task(
            index=index,
            key=annotation.key,
            audio=annotation.audio,
            midi=annotation.midi,
            start_s=annotation.start_s,
            end_s=segment.end_s,
            whole=annotation.start_s == 0 and annotation.end_s is None,
            record=self._records[index],
        )

    def _rejection(self, index: int, reason: str) -> Rejection:
        annotation = self._segments[index].annotation
        return Rejection(annotation.line, reason, annotation.record)

    def _keys(self, shard: Written) -> list[str]:
        return [self._segments[index].annotation.key for index in shard.samples]

    def _manifest(self, shards: Sequence[Written], durations: Mapping[int, float]) -> Manifest:
        packed = [index for shard in shards for index in shard.samples]
        assert len(packed) == len(set(packed)), "a sample is in two shards"
        audio = {"audio": EXTENSIONS[self._options.audio]} if self._corpus.has_audio else {}
        midi = {"midi": "mid"} if self._corpus.has_midi else {}
        labels = (dict(self._segments[index].annotation.labels) for index in packed)
        return Manifest(
            name=self._name,
            shards=tuple(shard.info for shard in shards),
            fields=audio | midi,
            labels=label_stats(self._corpus.labels, labels),
            options=self._identity,
            duration_s=round(math.fsum(durations[index] for index in packed), 3),
            packer_version=__version__,
        )


def _split(
    segments: Sequence[Segment], records: Sequence[dict[str, Any]], options: Options
) -> dict[str, list[int]]:
    """Samples of each split, in order; all of them under an empty name without splits."""
    if not options.split:
        return {"": list(range(len(segments)))}
    groups = [
        _group(segment.annotation.line, record, options.group_by)
        for segment, record in zip(segments, records, strict=True)
    ]
    chosen = assign_splits(groups, shares=options.split, seed=options.seed)
    parts: dict[str, list[int]] = {split: [] for split in options.split}
    for index, split in enumerate(chosen):
        parts[split].append(index)
    if empty := [split for split, part in parts.items() if not part]:
        raise ValueError(
            f"split {empty[0]!r} would be empty: {len(set(groups))} groups of "
            f"{options.group_by or 'recordings'} are too few for {dict(options.split)}"
        )
    return parts


def _group(line: int, record: dict[str, Any], group_by: str | None) -> str:
    """What must not be in two splits: the recording, by its path from the root, or a field."""
    if group_by is None:
        return str(record.get("audio_path") or record["midi_path"])
    if record.get(group_by) is None:
        raise AnnotationError(f"line {line} has no {group_by!r} to group by")
    return json.dumps(record[group_by], sort_keys=True)


def _record(annotation: Annotation, root: Path, labels: Sequence[str]) -> dict[str, Any]:
    """The JSON of a sample before the union with others: paths from the root, labels as floats."""
    record = dict(annotation.record)
    for name, path in (("audio_path", annotation.audio), ("midi_path", annotation.midi)):
        if path is not None and path.is_relative_to(root):
            record[name] = path.relative_to(root).as_posix()
    for name in ("start_time", "end_time"):
        if record.get(name) is not None:
            record[name] = float(record[name])
    if labels:
        record["labels"] = {name: annotation.labels.get(name) for name in labels}
    return record


def _input_hash(segments: Sequence[Segment], records: Sequence[dict[str, Any]]) -> str:
    """Identity of the input: keys, records, content of sources, and nothing of this machine."""
    digest = sha256()
    for segment, record in zip(segments, records, strict=True):
        identity = [segment.annotation.key, record, segment.content]
        digest.update(json.dumps(identity).encode())
    return digest.hexdigest()
