"""Builds a dataset: reads and checks annotations, encodes their segments, writes the shards."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from packer.builder import Builder, Built
from packer.card import put_cards
from packer.carry import Stop
from packer.cluster import connected
from packer.copies import Copies
from packer.inputs import rules_for
from packer.intake import Intake
from packer.interrupt import interruptible
from packer.joining import Joined
from packer.journal import clear, other_datasets
from packer.locks import locked
from packer.options import Options
from packer.report import Report, by_kind
from packer.samples import read_samples
from packer.spool import Spool, default_spool
from packer.target import Target
from shards.errors import ManifestError
from shards.faults import Kind, Rejection
from shards.manifest import NAME

log = logging.getLogger("packer")

_REJECTED = "rejected.jsonl"


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
    and the manifest last. What cannot be packed is listed in ``rejected.jsonl``; if it is too much,
    the build ends with an error once the dataset of the rest is whole. The same input and options
    give the same bytes, whatever ``workers`` and ``dask``. However a build ends, the same call goes
    on where it stopped.

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
        AnnotationError: if more than ``max_rejected`` cannot be packed; the rest is packed then.
            Before anything is written, if none can be packed, or a field is of two types; and for
            ``max_rejected`` already where another dataset would be replaced or appended to.
        ManifestError: if ``out`` holds another dataset or is a Python package, or samples do not
            fit ``joined``.
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
            taken=joined.taken if joined else None,
            with_midi=joined is not None and "midi" in joined.members,
            progress=progress,
        )
        report = Report(annotations, samples.total, max_rejected, list(samples.rejected))
        if joined or report.is_fatal:
            report.check()
        if not samples.segments:
            report.refuse_all()
        if joined:
            joined.require(samples.corpus.members(options))
        stop = Stop()
        target = Target(out, storage_options, pause=stop.pause)
        targets = {split: target.child(split) if split else target for split in samples.parts}
        for each in (target, *targets.values()):
            each.require_no_file()
        with locked(spools, {target.identity, *(each.identity for each in targets.values())}):
            builders = [
                Builder(
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
            _refuse_other_data(builders, target, targets, report, overwrite=overwrite)
            built = _make(builders, target, report, joined)
            put_cards(
                target, {split: one.manifest for split, one in zip(targets, built, strict=True)}
            )
            report.check(f"{target.url}/{_REJECTED}")
            return built


def _refuse_other_data(
    builders: Sequence[Builder],
    target: Target,
    targets: Mapping[str, Target],
    report: Report,
    *,
    overwrite: bool,
) -> None:
    """Look at all that is there before the first builder writes; clear what may be replaced.

    A dataset is not replaced by what is left where too much is left out.
    """
    # as ``--out shards`` would be, in a checkout of this project
    if "__init__.py" in target.names():
        raise ManifestError(f"{target.url} is a Python package: pack into another folder")
    others = other_datasets(target, [split for split in targets if split], overwrite=overwrite)
    if overwrite and (others or any(NAME in one.names() for one in targets.values())):
        report.check()
    for builder in builders:
        builder.journal.refuse_other_data(overwrite=overwrite)
    for other in others:
        clear(other)


def _name_of(annotations: Path) -> str:
    """What a dataset is called by default; the name of a folder may hold dots, or be one."""
    return annotations.resolve().name if annotations.is_dir() else annotations.stem


def _make(
    builders: Sequence[Builder], target: Target, report: Report, joined: Joined | None
) -> list[Built]:
    """Make all datasets, then say what was left out, and then what is there."""
    finished = [builder.make(report) for builder in builders]
    if joined:
        report.check()
    if all(finished):  # what notes of the build are left may say the same again
        report.rejected += [one for one in _unencodable(target) if one not in report.rejected]
    _tell(report, target, f"{joined.url if joined else target.url}/{_REJECTED}")
    if not any(builder.samples for builder in builders):
        for builder in builders:  # so that the next one tries again
            builder.end()
        report.refuse_all()
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
    """List what is left out, and say where it will be found."""
    if not report.rejected:
        target.remove(_REJECTED)
        return
    lines = report.lines()
    if _REJECTED not in target.names() or target.read(_REJECTED) != lines:
        target.write(_REJECTED, lines)
    log.warning("%d of %d left out: %s", report.left_out, report.total, told)
    for line in by_kind(report.rejected):
        log.warning("%s", line)
