"""Builds a dataset: reads and checks annotations, encodes their segments, writes the shards."""

import logging
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from packer.ahead import encode_ahead
from packer.card import put_cards
from packer.carry import Carrier, Stop
from packer.copies import Copies
from packer.encode import Encoded, Job, Task, shares
from packer.inputs import rules_for
from packer.interrupt import interruptible
from packer.journal import Done, Journal, clear, kept_samples, other_datasets
from packer.options import Options
from packer.plan import Group
from packer.probe import Intake
from packer.report import Report, by_kind
from packer.samples import Samples, plan_samples, read_samples
from packer.shard import Written, shard_name, write_shard
from packer.spool import Spool, default_spool, encoded_before, forget, locked, writing
from packer.spread import spread
from packer.summary import label_stats
from packer.target import Target
from shards import __version__
from shards.errors import AnnotationError
from shards.faults import Rejection
from shards.keys import keys_bytes
from shards.manifest import NAME, Manifest, dump_manifest

log = logging.getLogger("packer")

_MORE_THAN_PLANNED = 1.1  # of room: sizes are estimates


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
    only: str | None = None,
    label_range: tuple[float, float] | None = None,
    like: Mapping[str, Any] | None = None,
    intake: Intake | None = None,
    name: str | None = None,
    workers: int | None = None,
    max_rejected: float = 0.0,
    overwrite: bool = False,
    storage_options: dict[str, Any] | None = None,
    spool: Path | None = None,
    progress: bool = True,
) -> list[Built]:
    """Pack an annotation file into a dataset, or one dataset a split.

    All annotations and their sources are checked before anything is written; files appear whole
    and the manifest last. The same input and options give the same bytes, whatever ``workers``.
    However a build ends, the same call goes on where it stopped.

    Args:
        annotations: JSONL, one sample a line.
        out: URL of the folder to make.
        root: folder that relative paths start from; None is the annotation file's.
        rewrite: path prefixes to replace.
        only: "audio" or "midi" leaves the other out.
        label_range: lowest and highest value that a label may have.
        like: a record whose fields are all that samples may have, for data that join others.
        intake: which samples are made of the annotations; None is one of each.
        name: of the dataset; None is the annotation file's stem.
        workers: encoding processes; None is one a core, 0 this one.
        max_rejected: share of the annotations that may be left out.
        overwrite: replace another dataset in ``out``.
        storage_options: passed to fsspec.
        spool: local folder for what is encoded and not yet in ``out``; None is in the user's
            cache directory.

    Raises:
        AnnotationError: if more than ``max_rejected`` cannot be packed; nothing is written then.
        ManifestError: if ``out`` holds another dataset.
        FetchError: if ``out`` cannot be written or is being written by another build, or if the
            disk of ``spool`` has too little room.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    options, intake, spools = options or Options(), intake or Intake(), spool or default_spool()
    with interruptible(), Copies(spools, threads=intake.io_threads) as copies:
        samples = read_samples(
            annotations,
            rules_for(annotations, root, rewrite, only, label_range, like),
            options=options,
            intake=intake,
            copies=copies,
            progress=progress,
        )
        report = Report(annotations, samples.total, max_rejected, list(samples.rejected))
        report.check()
        if not samples.segments:
            raise AnnotationError(f"{annotations}: none of its annotations can be packed")
        stop = Stop()
        target = Target(out, storage_options, pause=stop.pause)
        targets = {split: target.child(split) if split else target for split in samples.parts}
        with locked(spools, {target.identity, *(each.identity for each in targets.values())}):
            builders = [
                _Builder(
                    samples.part(split),
                    options=options,
                    target=each,
                    name=name or annotations.stem,
                    spool=Spool(spools, each.identity),
                    stop=stop,
                    copies=copies,
                )
                for split, each in targets.items()
            ]
            others = other_datasets(target, options.split, overwrite=overwrite)
            for builder in builders:  # all of them before the first one writes
                builder.journal.refuse_other_data(overwrite=overwrite)
            for other in others:
                clear(other)
            built = _make(builders, target, report, workers=workers, progress=progress)
            put_cards(
                target, {split: one.manifest for split, one in zip(targets, built, strict=True)}
            )
            return built


def _make(
    builders: Sequence["_Builder"],
    target: Target,
    report: Report,
    *,
    workers: int | None,
    progress: bool,
) -> list[Built]:
    """Make all datasets, then say what was left out, and then what is there."""
    finished = [builder.make(report, workers=workers, progress=progress) for builder in builders]
    if not all(finished):
        if report.rejected:
            target.write("rejected.jsonl", report.lines())
            left_out, url = len(report.rejected), target.url
            log.warning("%d of %d left out: %s/rejected.jsonl", left_out, report.total, url)
            for line in by_kind(report.rejected):
                log.warning("%s", line)
        else:
            target.remove("rejected.jsonl")
    built = [builder.finish() for builder in builders]
    for builder in builders:  # their notes tell who was left out, so all manifests come first
        builder.end()
    if target.on_drive and any(one.made for one in built):
        log.warning(
            "%s: Drive's client has all files, but may not have uploaded them; before this "
            "machine goes away, run: from google.colab import drive; drive.flush_and_unmount()",
            target.url,
        )
    return built


class _Builder:
    """Makes one dataset, group after group."""

    def __init__(
        self,
        samples: Samples,
        *,
        options: Options,
        target: Target,
        name: str,
        spool: Spool,
        stop: Stop,
        copies: Copies,
    ) -> None:
        self._segments, self._records = samples.segments, samples.records
        self._corpus = samples.corpus
        self._seconds = array("d", (segment.duration_s for segment in samples.segments))
        self._options, self._target, self._name = options, target, name
        self._spool, self._stop, self._copies = spool, stop, copies
        self._identity = asdict(options) | {"input_sha256": samples.identity}
        self._finished: Manifest | None = None
        self._done: list[Done] = []
        self.journal = Journal(target, name, self._identity)

    def make(self, report: Report, *, workers: int | None, progress: bool) -> bool:
        """Make what is missing of the shards, and add what is left out to the report.

        Returns:
            Whether the dataset was found finished.
        """
        self._finished = self.journal.finished()
        if self._finished is not None:
            report.rejected += self._rejections(self.journal.rejected())
            return True
        self.journal.begin()
        resumed = self._spool.begin()
        groups = plan_samples(self._segments, self._options, at=self._copies.at)
        if resumed:
            self._spool.keep({job.spool for group in groups for job in self._jobs(group)})
        first = 0
        with Carrier[Done](self._stop) as carrier:
            for number, group in enumerate(groups):
                carry, rejected = self._prepare(number, group, first, carrier, workers, progress)
                report.rejected += self._rejections(rejected)
                report.check()
                carrier.submit(carry)
                first += len(kept_samples(group.shards, rejected))
            self._done = carrier.results()
        return False

    def finish(self) -> Built:
        """Write the manifest, if it is not there, and what else goes with it."""
        if self._finished is not None:
            return Built(self._target.url, self._finished, made=False)
        shards = [shard for done in self._done for shard in done.shards]
        manifest = self._manifest(shards)
        self._target.write("keys.bin", keys_bytes(self._keys(shard) for shard in shards))
        self._target.write(NAME, dump_manifest(manifest))
        return Built(self._target.url, manifest, made=True)

    def end(self) -> None:
        """Remove what only an unfinished build needs."""
        self._spool.end()
        self.journal.end()

    def _prepare(
        self,
        number: int,
        group: Group,
        first: int,
        carrier: Carrier[Done],
        workers: int | None,
        progress: bool,
    ) -> tuple[Callable[[], Done], dict[int, str]]:
        """Encode a group, unless it is in the target; how it gets there, and what is left out."""
        done = self.journal.group(number, group.shards, first=first)
        if done is not None:
            return lambda: done, dict(done.rejected)
        encoded = self._encode(group, carrier, workers, progress)
        rejected = {i: place.reason for i, (_, place) in encoded.items() if place.reason}
        shards = kept_samples(group.shards, rejected)
        return partial(self._carry, number, shards, encoded, rejected, first), rejected

    def _carry(
        self,
        number: int,
        shards: Sequence[tuple[int, ...]],
        encoded: Mapping[int, tuple[Path, Encoded]],
        rejected: Mapping[int, str],
        first: int,
    ) -> Done:
        """Cut the shards of a group one by one, each moved to the target before the next."""
        written = []
        for place, samples in enumerate(shards):
            self._stop.pause()
            path = self._spool.folder / shard_name(first + place)
            with writing(path.parent):
                shard = write_shard(samples, encoded, path)
            index = path.with_name(f"{path.name}.idx")
            self._put(path, shard.info.filesize, shard.info.sha256)
            self._put(index, index.stat().st_size, shard.index_sha256)
            written.append(shard)
        durations = {i: encoded[i][1].duration_s for shard in shards for i in shard}
        done = Done(written, durations, rejected)
        self.journal.finish_group(number, done)
        for spool in {spool for spool, _ in encoded.values()}:
            forget(spool)
        return done

    def _put(self, path: Path, size: int | None, sha256: str | None) -> None:
        if self.journal.has(path.name, size, sha256):
            path.unlink()
        else:
            self._target.put(path, path.name)

    def _encode(
        self, group: Group, carrier: Carrier[Done], workers: int | None, progress: bool
    ) -> dict[int, tuple[Path, Encoded]]:
        """Encode all recordings of a group; spool file and place in it, by sample."""
        jobs = self._jobs(group)
        found = {job.spool: encoded_before(job) for job in jobs}
        missing = [job for job in jobs if found[job.spool] is None]
        if len(missing) < len(jobs):
            log.info("%d recordings are encoded already", len(jobs) - len(missing))
        self._require_room(group, missing, carrier)
        run = partial(spread, workers=workers, label="recordings", progress=progress)
        results = encode_ahead(missing, self._copies, run)
        for job, places in zip(missing, results, strict=True):
            found[job.spool] = places
            carrier.check()
        self._warn_of_clipping(place for job in jobs for place in found[job.spool] or ())
        return {place.index: (job.spool, place) for job in jobs for place in found[job.spool] or ()}

    def _warn_of_clipping(self, places: Iterable[Encoded]) -> None:
        clipped = sorted(place.index for place in places if place.clipped)
        if clipped:
            example = self._segments[clipped[0]].annotation
            log.warning(
                "%d samples clip: 4 frames in a row, or one in a thousand, are as loud as their "
                "recording can hold; such as line %d, key %s",
                *(len(clipped), example.line, example.key),
            )

    def _require_room(self, group: Group, missing: Sequence[Job], carrier: Carrier[Done]) -> None:
        """Check for room for what is to be encoded, and for the shards that are cut from it.

        If there is too little while the group before is on its way, it is waited for.
        """
        planned = {
            index: size
            for recording in group.recordings
            for index, size in zip(recording.indices, recording.planned_bytes, strict=True)
        }
        total = sum(planned.values())
        to_encode = sum(planned[task.index] for job in missing for task in job.tasks)
        stays = self._target.shares_disk(self._spool.folder)
        to_cut = total if stays else min(total, self._options.shard_bytes)
        needed = round(_MORE_THAN_PLANNED * (to_encode + to_cut))
        if not self._spool.has_room(2 * needed):
            carrier.wait()
        self._spool.require_room(needed)

    def _jobs(self, group: Group) -> list[Job]:
        """What is to be encoded for a group, in order."""
        return [
            self._job(samples)
            for recording in group.recordings
            for samples in shares(recording.indices, self._seconds)
        ]

    def _job(self, indices: Sequence[int]) -> Job:
        tasks = tuple(self._task(index) for index in indices)
        options = self._options
        job = Job(
            Path(),
            tasks,
            options.audio,
            self._corpus.extension,
            options.sample_rate,
            options.channels,
            self._corpus.has_midi,
            with_notes=options.midi == "notes",
        )
        content = [self._segments[index].content for index in indices]
        return replace(job, spool=self._spool.recording(job, content))

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

    def _rejections(self, reasons: Mapping[int, str]) -> list[Rejection]:
        lines = {index: self._segments[index].annotation for index in reasons}
        return [Rejection(lines[i].line, why, lines[i].record) for i, why in reasons.items()]

    def _keys(self, shard: Written) -> list[str]:
        return [self._segments[index].annotation.key for index in shard.samples]

    def _manifest(self, shards: Sequence[Written]) -> Manifest:
        packed = [index for shard in shards for index in shard.samples]
        assert len(packed) == len(set(packed)), "a sample is in two shards"
        audio = {"audio": self._corpus.extension} if self._corpus.extension else {}
        midi = {"midi": "mid"} if self._corpus.has_midi else {}
        notes = {"notes": "notes.npy"} if midi and self._options.midi == "notes" else {}
        durations = (second for done in self._done for second in done.durations.values())
        labels = (dict(self._segments[index].annotation.labels) for index in packed)
        return Manifest(
            name=self._name,
            shards=tuple(shard.info for shard in shards),
            fields=audio | midi | notes,
            labels=label_stats(self._corpus.labels, labels),
            options=self._identity,
            duration_s=round(math.fsum(durations), 3),
            packer_version=__version__,
        )
