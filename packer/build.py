"""Builds a dataset: reads and checks annotations, encodes their segments, writes the shards."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packer.card import put_cards
from packer.carry import Carrier, Stop
from packer.cluster import Cluster, Crew, connected
from packer.copies import Copies
from packer.encode import Encoded
from packer.inputs import rules_for
from packer.interrupt import interruptible
from packer.jobs import Jobs
from packer.joining import Joined
from packer.journal import Done, Journal, clear, kept_samples, other_datasets
from packer.options import Options
from packer.plan import Group
from packer.probe import Intake
from packer.processes import Processes
from packer.report import Report, by_kind
from packer.samples import Samples, plan_samples, read_samples
from packer.shard import Written
from packer.spool import Spool, default_spool, locked
from packer.summary import label_stats
from packer.target import Target
from shards import __version__
from shards.errors import AnnotationError
from shards.faults import Kind, Rejection
from shards.keys import keys_bytes
from shards.manifest import NAME, Manifest, dump_manifest

log = logging.getLogger("packer")

_REJECTED = "rejected.jsonl"


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
    joined: Joined | None = None,
    intake: Intake | None = None,
    name: str | None = None,
    workers: int | None = None,
    dask: str | None = None,
    max_rejected: float = 0.0,
    overwrite: bool = False,
    storage_options: dict[str, Any] | None = None,
    spool: Path | None = None,
    progress: bool = True,
) -> list[Built]:
    """Pack an annotation file into a dataset, or one dataset a split.

    All annotations and their sources are checked before anything is written; files appear whole
    and the manifest last. The same input and options give the same bytes, whatever ``workers`` and
    ``dask``. However a build ends, the same call goes on where it stopped.

    Args:
        annotations: JSONL, one sample a line.
        out: URL of the folder to make.
        root: folder that relative paths start from; None is the annotation file's.
        rewrite: path prefixes to replace.
        only: "audio" or "midi" leaves the other out.
        label_range: lowest and highest value that a label may have.
        joined: the dataset that samples are made for, as ``append`` does; None is a new one.
        intake: which samples are made of the annotations; None is one of each.
        name: of the dataset; None is the annotation file's stem.
        workers: encoding processes; None is one a core, 0 this one.
        dask: address of a Dask scheduler whose workers encode and cut; "local" starts one here,
            with ``workers`` processes. Sources and ``out`` are the same paths for all of them.
        max_rejected: share of the annotations that may be left out.
        overwrite: replace another dataset in ``out``.
        storage_options: passed to fsspec.
        spool: local folder for what is encoded and not yet in ``out``; None is in the user's
            cache directory.

    Raises:
        AnnotationError: if more than ``max_rejected`` cannot be packed; nothing is written then.
        ManifestError: if ``out`` holds another dataset, or samples do not fit ``joined``.
        FetchError: if ``out`` cannot be written or is being written by another build, if the
            disk of ``spool`` has too little room, or if a cluster cannot be reached or does not
            see what this machine sees.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    options, intake, spools = options or Options(), intake or Intake(), spool or default_spool()
    with (
        interruptible(),
        Copies(spools, threads=intake.io_threads) as copies,
        connected(dask, workers, storage_options) if dask else nullcontext() as cluster,
    ):
        samples = read_samples(
            annotations,
            rules_for(
                annotations, root, rewrite, only, label_range, joined.like if joined else None
            ),
            options=options,
            intake=intake,
            copies=copies,
            with_midi=joined is not None and "midi" in joined.members,
            progress=progress,
        )
        report = Report(annotations, samples.total, max_rejected, list(samples.rejected))
        report.check()
        if not samples.segments:
            raise AnnotationError(f"{annotations}: none of its annotations can be packed")
        if joined:
            joined.require(samples.corpus.members(options))
        stop = Stop()
        target = Target(out, storage_options, pause=stop.pause)
        targets = {split: target.child(split) if split else target for split in samples.parts}
        with locked(spools, {target.identity, *(each.identity for each in targets.values())}):
            builders = [
                _Builder(
                    samples.part(split),
                    options=options,
                    intake=intake,
                    target=each,
                    name=name or _name_of(annotations),
                    spool=Spool(spools, each.identity),
                    stop=stop,
                    copies=copies,
                    workers=workers,
                    cluster=cluster,
                    progress=progress,
                )
                for split, each in targets.items()
            ]
            others = other_datasets(target, [s for s in targets if s], overwrite=overwrite)
            for builder in builders:  # all of them before the first one writes
                builder.journal.refuse_other_data(overwrite=overwrite)
            for other in others:
                clear(other)
            built = _make(builders, target, report, told=joined.url if joined else target.url)
            put_cards(
                target, {split: one.manifest for split, one in zip(targets, built, strict=True)}
            )
            return built


def _name_of(annotations: Path) -> str:
    """What a dataset is called by default; the name of a folder may hold dots, or be one."""
    return annotations.resolve().name if annotations.is_dir() else annotations.stem


def _make(
    builders: Sequence["_Builder"], target: Target, report: Report, *, told: str
) -> list[Built]:
    """Make all datasets, then say what was left out, and then what is there.

    Args:
        told: the folder where whoever is told will find the list of what was left out.
    """
    finished = [builder.make(report) for builder in builders]
    if all(finished):
        report.rejected += _unencodable(target)
    _tell(report, target, told)
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


def _unencodable(target: Target) -> list[Rejection]:
    """What the build that finished a dataset found no way to encode; reading does not find it."""
    if _REJECTED not in target.names():
        return []
    rows = map(json.loads, target.read(_REJECTED).splitlines())
    found = [Rejection(**row | {"kind": Kind(row["kind"])}) for row in rows]
    return [rejection for rejection in found if rejection.kind == Kind.UNENCODABLE]


def _tell(report: Report, target: Target, told: str) -> None:
    """List what is left out, and say where."""
    if not report.rejected:
        target.remove(_REJECTED)
        return
    lines = report.lines()
    if _REJECTED not in target.names() or target.read(_REJECTED) != lines:
        target.write(_REJECTED, lines)
    log.warning("%d of %d left out: %s/%s", report.left_out, report.total, told, _REJECTED)
    for line in by_kind(report.rejected):
        log.warning("%s", line)


class _Builder:
    """Makes one dataset, group after group."""

    def __init__(
        self,
        samples: Samples,
        *,
        options: Options,
        intake: Intake,
        target: Target,
        name: str,
        spool: Spool,
        stop: Stop,
        copies: Copies,
        workers: int | None,
        cluster: Cluster | None,
        progress: bool,
    ) -> None:
        self._segments, self._corpus = samples.segments, samples.corpus
        self._jobs = Jobs(samples, options, spool)
        self._options, self._target, self._name = options, target, name
        self._spool, self._stop, self._copies = spool, stop, copies
        self._identity = asdict(options) | intake.noted | {"input_sha256": samples.identity}
        self._finished: Manifest | None = None
        self._done: list[Done] = []
        self.journal = Journal(target, name, self._identity)
        self._crew: Processes | Crew
        if cluster is not None:
            self._crew = Crew(cluster, target, stop=stop, progress=progress)
        else:
            self._crew = Processes(
                target,
                self.journal,
                spool,
                copies,
                stop=stop,
                shard_bytes=options.shard_bytes,
                workers=workers,
                progress=progress,
            )

    def make(self, report: Report) -> bool:
        """Make what is missing of the shards, and add what is left out to the report.

        Returns:
            Whether the dataset was found finished.
        """
        self._finished = self.journal.finished()
        if self._finished is not None:
            report.rejected += self._rejections(self.journal.rejected())
            return True
        self.journal.begin()
        groups = plan_samples(self._segments, self._options, at=self._copies.at)
        self._crew.begin(self._jobs.of(group) for group in groups)
        first = 0
        with Carrier[Done](self._stop) as carrier:
            for number, group in enumerate(groups):
                carry, rejected = self._prepare(number, group, first, carrier)
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
        self.journal.remove_other_shards([shard.info.url for shard in shards])
        self._target.write("keys.bin", keys_bytes(self._keys(shard) for shard in shards))
        self._target.write(NAME, dump_manifest(manifest))
        return Built(self._target.url, manifest, made=True)

    def end(self) -> None:
        """Remove what only an unfinished build needs."""
        self._spool.end()
        self.journal.end()

    def _prepare(
        self, number: int, group: Group, first: int, carrier: Carrier[Done]
    ) -> tuple[Callable[[], Done], dict[int, str]]:
        """Encode a group, unless it is in the target; how it gets there, and what is left out."""
        done = self.journal.group(number, group.shards, first=first)
        if done is not None:
            return lambda: done, dict(done.rejected)
        encoded = self._crew.encode(group, self._jobs.of(group), carrier)
        self._warn_of_clipping(place for _, place in encoded.values())
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
        """Cut the shards of a group, and note that they are in the target."""
        written = self._crew.cut(shards, encoded, first=first)
        durations = {i: encoded[i][1].duration_s for shard in shards for i in shard}
        done = Done(written, durations, rejected)
        self.journal.finish_group(number, done)
        self._crew.forget(encoded.values())
        return done

    def _warn_of_clipping(self, places: Iterable[Encoded]) -> None:
        clipped = sorted(place.index for place in places if place.clipped)
        if clipped:
            example = self._segments[clipped[0]].annotation
            log.warning(
                "%d samples clip: 4 frames in a row, or one in a thousand, are as loud as their "
                "recording can hold; such as line %d, key %s",
                *(len(clipped), example.line, example.key),
            )

    def _rejections(self, reasons: Mapping[int, str]) -> list[Rejection]:
        lines = {index: self._segments[index].annotation for index in reasons}
        return [Rejection(lines[i].line, why, lines[i].record) for i, why in reasons.items()]

    def _keys(self, shard: Written) -> list[str]:
        return [self._segments[index].annotation.key for index in shard.samples]

    def _manifest(self, shards: Sequence[Written]) -> Manifest:
        packed = [index for shard in shards for index in shard.samples]
        assert len(packed) == len(set(packed)), "a sample is in two shards"
        durations = (second for done in self._done for second in done.durations.values())
        labels = (dict(self._segments[index].annotation.labels) for index in packed)
        return Manifest(
            name=self._name,
            shards=tuple(shard.info for shard in shards),
            fields=self._corpus.members(self._options),
            labels=label_stats(self._corpus.labels, labels),
            options=self._identity,
            duration_s=round(math.fsum(durations), 3),
            packer_version=__version__,
        )
