"""What the commands of ``python -m packer`` do with their arguments; each returns the exit status.

What a command needs is imported by the command, so that help comes at once.
"""

import argparse
import logging
import time
from typing import TYPE_CHECKING, Any

from shards.commands import plain

if TYPE_CHECKING:
    from packer.intake import Intake
    from packer.options import Options
    from packer.verify import Verified

log = logging.getLogger("packer")


def run_build(args: argparse.Namespace) -> int:
    """Pack annotations, or with ``--dry-run`` only plan it."""
    from packer.build import build
    from packer.tell import write_summary

    if args.dry_run:
        return _plan(args)
    began = time.perf_counter()
    built = build(
        args.annotations,
        args.out,
        options=_options(args),
        root=args.root,
        rewrite=dict(args.rewrite),
        only=args.only,
        label_range=args.label_range,
        intake=_intake(args),
        name=args.name,
        workers=args.workers,
        dask=args.dask,
        max_rejected=args.max_rejected,
        overwrite=args.overwrite,
        storage_options=args.storage_options,
        spool=args.spool,
    )
    for one in built:
        print(plain(write_summary(one.url, one.manifest, made=one.made)))
    seconds = time.perf_counter() - began
    print(f"{seconds:.1f} s. Read it back with: python -m packer verify {args.out}")
    return 0


def _plan(args: argparse.Namespace) -> int:
    from packer.inputs import rules_for
    from packer.preview import plan
    from packer.report import Report
    from packer.tell import write_plan

    rules = rules_for(args.annotations, args.root, dict(args.rewrite), args.only, args.label_range)
    planned = plan(args.annotations, rules, options=_options(args), intake=_intake(args))
    report = Report(args.annotations, planned.total, args.max_rejected, list(planned.rejected))
    print(plain(write_plan(planned, report)))
    if not any(one.samples for one in planned.datasets):
        report.refuse_all()
    report.check()
    return 0


def _options(args: argparse.Namespace) -> "Options":
    from packer.options import Options

    if args.group_by is not None and not (args.split or args.split_by):
        raise ValueError(
            f"--group-by {args.group_by} keeps what is alike in one split, and there are none: add "
            "--split train=0.8,val=0.1,test=0.1"
        )
    return Options(
        audio=args.audio,
        midi=args.midi,
        sample_rate=args.sample_rate,
        channels=args.channels,
        shard_bytes=args.shard_size,
        group_bytes=args.shuffle_group,
        seed=args.seed,
        split=args.split,
        split_by=args.split_by,
        group_by=args.group_by,
        order=args.order,
    )


def _intake(args: argparse.Namespace) -> "Intake":
    from packer.intake import Intake

    return Intake(
        whole=args.whole,
        segment_s=args.segment,
        hop_s=args.hop,
        subset=args.subset,
        tolerance_s=args.tolerance,
        io_threads=args.io_threads,
    )


def run_append(args: argparse.Namespace) -> int:
    """Add annotations to a dataset."""
    from packer.append import append
    from packer.tell import write_summary

    made = append(
        args.annotations,
        args.url,
        root=args.root,
        rewrite=dict(args.rewrite),
        only=args.only,
        label_range=args.label_range,
        intake=_intake(args),
        workers=args.workers,
        max_rejected=args.max_rejected,
        storage_options=args.storage_options,
        spool=args.spool,
    )
    print(f"{made.added} samples were added")
    print(plain(write_summary(made.url, made.manifest, made=True)))
    return 0


def run_relabel(args: argparse.Namespace) -> int:
    """Write new ratings beside a dataset."""
    from packer.relabel import relabel
    from packer.tell import write_labels

    made = relabel(
        args.url,
        args.labels,
        label_range=args.label_range,
        storage_options=args.storage_options,
    )
    print(f"{made.url}: {made.rated} of {made.samples} samples have new ratings")
    print(plain("\n".join(write_labels(made.labels))))
    print(f"train on them with: make_pipeline(..., labels={made.url!r})")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Read all back, and remake what is bad if that is asked for."""
    from packer.verify import verify

    faults, common = 0, {"workers": args.workers, "storage_options": args.storage_options}
    for result in verify(args.url, **common) if args.repair is None else _repair(args, **common):
        for fault in result.faults:
            log.error("%s", fault)
        faults += len(result.faults)
        state = f"{len(result.faults)} faults" if result.faults else "all good"
        print(f"{result.url}: {result.samples} samples in {result.shards} shards: {state}")
    return 1 if faults else 0


def _repair(args: argparse.Namespace, **common: Any) -> "list[Verified]":
    from packer.inputs import rules_for
    from packer.repair import repair

    rules = rules_for(args.repair, args.root, dict(args.rewrite), args.only, args.label_range)
    return repair(args.repair, args.url, rules, intake=_intake(args), spool=args.spool, **common)


def run_index(args: argparse.Namespace) -> int:
    """Make datasets of the tars of somebody else."""
    from packer.foreign import index
    from packer.tell import write_summary

    for one in index(
        args.url,
        name=args.name,
        overwrite=args.overwrite,
        workers=args.workers,
        storage_options=args.storage_options,
    ):
        print(plain(write_summary(one.url, one.manifest, made=True)))
        for remark in one.remarks:
            log.warning("%s: %s", one.url, remark)
    return 0


def run_view(args: argparse.Namespace) -> int:
    """Write the page, or serve it."""
    from packer.serve import serve
    from packer.view import SAMPLES, write_page

    if args.serve:
        serve(args.url, port=args.port, shards=args.shards, storage_options=args.storage_options)
        return 0
    if args.out is None:
        raise ValueError("say --out page.html for a file, or --serve for the browser")
    shown = write_page(
        args.url,
        args.out,
        samples=args.samples or SAMPLES,
        shards=args.shards,
        storage_options=args.storage_options,
    )
    print(f"{args.out}: {shown} samples")
    return 0


def run_sample(args: argparse.Namespace) -> int:
    """Make a corpus."""
    from packer.corpus import write_corpus

    path = write_corpus(
        args.folder,
        pieces=args.pieces,
        piece_seconds=args.piece_seconds,
        clip_seconds=args.clip_seconds,
        seed=args.seed,
        workers=args.workers,
    )
    print(f"{path}: pack it with: python -m packer build {path} --out {args.folder}/shards")
    return 0


def run_render(args: argparse.Namespace) -> int:
    """Render MIDI."""
    from packer.render import render_annotations

    path = render_annotations(
        args.annotations,
        args.out,
        root=args.root,
        audio_format=args.format,
        workers=args.workers,
    )
    print(f"{path}: pack it with: python -m packer build {path} --out {args.out}/shards")
    return 0
