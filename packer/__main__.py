"""Pack recordings, MIDI and annotations into WebDataset shards."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packer.arguments import (
    DASK_HELP,
    ROOT_HELP,
    add_checks,
    add_format,
    add_intake,
    add_repair,
    add_splits,
    value_range,
)
from packer.interrupt import interruptible
from shards.commands import Commands, Help, add_command, json_object, plain, run_command

if TYPE_CHECKING:
    from packer.options import Options
    from packer.probe import Intake
    from packer.verify import Verified

log = logging.getLogger("packer")

_EXAMPLES = """examples:
  python -m packer sample demo                        a small corpus to try everything on
  python -m packer build demo/annotations.jsonl --out demo/shards --split train=0.8,val=0.2
  python -m packer verify demo/shards                 read every sample back
  python -m packer view demo/shards --out page.html   look at it and listen to it

'python -m packer COMMAND --help' tells the options of a command, with examples.
"""
_BUILD_EXAMPLES = """examples:
  python -m packer build annotations.jsonl --out shards --split train=0.8,val=0.1,test=0.1 \\
      --group-by piece
  python -m packer build annotations.jsonl --out shards --dry-run    check all, write nothing
  python -m packer build maestro-v3.0.0 --out gs://bucket/maestro --segment 10 --split-by split
  python -m packer build asap-dataset/metadata.csv --out asap --only midi
  python -m packer build recordings/ --out shards --segment 30 --hop 15     pairs x.wav and x.mid
  python -m packer build annotations.jsonl --out shards --rewrite /content/drive/MyDrive=/data

ANNOTATIONS are JSON lines, such as {"audio_path": "audio/x.wav", "midi_path": "midi/x.mid",
"start_time": 0.0, "end_time": 10.0, "labels": {"note_accuracy": 85.2}}; or the metadata of MAESTRO
(.csv or .json) or ASAP (metadata.csv); or a folder that holds one of these, or audio and MIDI files
of the same names. Everything is checked before anything is encoded. The same command goes on
where a build broke off.
"""
_APPEND_EXAMPLES = """examples:
  python -m packer append shards/train more.jsonl

The new samples become further shards, packed with the options of the dataset. No key may be in it
already, and no field be new.
"""
_RELABEL_EXAMPLES = """examples:
  python -m packer relabel shards/train ratings.jsonl
  python -m packer relabel shards ratings.jsonl --label-range 0:100     for all splits

LABELS are JSON lines, such as {"key": "audio-x-0", "labels": {"note_accuracy": 85.2}}. Train on
them with make_pipeline(..., labels="shards/labels.jsonl"). The shards stay as they are.
"""
_VERIFY_EXAMPLES = """examples:
  python -m packer verify shards             all splits
  python -m packer verify gs://bucket/shards/train
  python -m packer verify shards --repair annotations.jsonl     remake what is bad

The exit status is 1 if anything is at fault.
"""
_INDEX_EXAMPLES = """examples:
  python -m packer index /data/somebodys-tars
"""
_VIEW_EXAMPLES = """examples:
  python -m packer view shards --out page.html          one file, to be sent around
  python -m packer view shards --serve                  all samples, in this machine's browser
"""
_SAMPLE_EXAMPLES = """examples:
  python -m packer sample demo
  python -m packer sample demo --pieces 4 --piece-seconds 20 --clip-seconds 5
"""
_RENDER_EXAMPLES = """examples:
  python -m packer render midi-only.jsonl --out rendered
  python -m packer build rendered/annotations.jsonl --out shards
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if something is at fault, 130 if interrupted."""
    with interruptible():
        return run_command(_parser(), argv, log)


# What a command needs is imported by the command, so that help comes at once.


def _build(args: argparse.Namespace) -> int:
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
    report.check()
    return 0


def _options(args: argparse.Namespace) -> "Options":
    from packer.options import Options

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
    from packer.probe import Intake

    return Intake(
        whole=args.whole,
        segment_s=args.segment,
        hop_s=args.hop,
        subset=args.subset,
        tolerance_s=args.tolerance,
        io_threads=args.io_threads,
    )


def _append(args: argparse.Namespace) -> int:
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


def _relabel(args: argparse.Namespace) -> int:
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


def _verify(args: argparse.Namespace) -> int:
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


def _index(args: argparse.Namespace) -> int:
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


def _view(args: argparse.Namespace) -> int:
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


def _sample(args: argparse.Namespace) -> int:
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


def _render(args: argparse.Namespace) -> int:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m packer", description=__doc__, epilog=_EXAMPLES, formatter_class=Help
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)
    _add_append(commands)
    _add_relabel(commands)
    _add_verify(commands)
    _add_index(commands)
    _add_view(commands)
    _add_sample(commands)
    _add_render(commands)
    return parser


def _add_build(commands: Commands) -> None:
    text = "pack annotations into shards"
    command = add_command(commands, "build", _build, text, examples=_BUILD_EXAMPLES)
    add = command.add_argument
    add("annotations", type=Path, help="JSON lines, a metadata table, or a folder; see below")
    add("--out", required=True, metavar="URL", help="folder to make, local or any fsspec URL")
    add("--dry-run", action="store_true", help="check all, say what it will be, write nothing")
    add("--overwrite", action="store_true", help="replace what is in the folder")
    add("--name", help="of the dataset; default: the annotation file's stem")
    add("--spool", type=Path, metavar="DIR", help="local folder for what is not yet in --out")
    _add_common(add, "encoding processes; default: one a core")
    add("--dask", metavar="ADDRESS", help=DASK_HELP)
    add_intake(command.add_argument_group("what goes in").add_argument)
    add_checks(command.add_argument_group("what is checked").add_argument)
    add_splits(command.add_argument_group("splits and order").add_argument)
    add_format(command.add_argument_group("what comes out").add_argument)


def _add_append(commands: Commands) -> None:
    text = "add new annotations to a dataset as further shards"
    command = add_command(commands, "append", _append, text, examples=_APPEND_EXAMPLES)
    add = command.add_argument
    add("url", metavar="URL", help="a dataset, such as one split")
    add("annotations", type=Path, help="as for build")
    add("--spool", type=Path, metavar="DIR", help="local folder to pack in")
    _add_common(add, "encoding processes; default: one a core")
    add_intake(command.add_argument_group("what goes in").add_argument)
    add_checks(command.add_argument_group("what is checked").add_argument)


def _add_relabel(commands: Commands) -> None:
    text = "put new ratings beside the shards of a dataset"
    command = add_command(commands, "relabel", _relabel, text, examples=_RELABEL_EXAMPLES)
    add = command.add_argument
    add("url", metavar="URL", help="a dataset, or a folder of splits")
    add("labels", type=Path, metavar="LABELS", help="JSON lines of keys and labels")
    add("--label-range", type=value_range, metavar="LO:HI", help="of all ratings, such as 0:100")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


def _add_verify(commands: Commands) -> None:
    text = "re-read every shard: checksums, index, counts, decoding"
    command = add_command(commands, "verify", _verify, text, examples=_VERIFY_EXAMPLES)
    command.add_argument("url", metavar="URL", help="a dataset, or a folder of splits")
    _add_common(command.add_argument, "processes; default: one a core")
    add_repair(command.add_argument_group("repair").add_argument)


def _add_index(commands: Commands) -> None:
    text = "make manifest and indexes for tars that somebody else wrote"
    add = add_command(commands, "index", _index, text, examples=_INDEX_EXAMPLES).add_argument
    add("url", metavar="URL", help="a folder of tars, or of such folders")
    add("--name", help="of the dataset; default: that of the folder")
    add("--overwrite", action="store_true", help="replace a manifest made in another way")
    _add_common(add, "processes; default: one a core")


def _add_view(commands: Commands) -> None:
    text = "make a page to look at a dataset and listen to it"
    add = add_command(commands, "view", _view, text, examples=_VIEW_EXAMPLES).add_argument
    add("url", metavar="URL", help="a dataset, or a folder of splits")
    add("--out", type=Path, metavar="FILE", help="the page, in one file")
    add("--serve", action="store_true", help="serve it to this machine's browser instead")
    add("--port", type=int, default=0, help="of --serve; 0 takes any that is free")
    add("--samples", type=int, metavar="N", help="shown in a file, at most; default: 40")
    add("--shards", type=int, metavar="N", help="look only into N shards of each split")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


def _add_sample(commands: Commands) -> None:
    text = "make a small corpus of piano pieces, with audio, MIDI and labels"
    add = add_command(commands, "sample", _sample, text, examples=_SAMPLE_EXAMPLES).add_argument
    add("folder", type=Path, metavar="DIR")
    add("--pieces", type=int, default=24, help="how many")
    add("--piece-seconds", type=float, default=60.0, help="length of each")
    add("--clip-seconds", type=float, default=10.0, help="length of a sample")
    add("--seed", type=int, default=0, help="of the music")
    add("--workers", type=int, help="processes; default: one a core")


def _add_render(commands: Commands) -> None:
    text = "make audio for annotations that have MIDI alone"
    add = add_command(commands, "render", _render, text, examples=_RENDER_EXAMPLES).add_argument
    add("annotations", type=Path, help="JSON lines with midi_path")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the new corpus")
    add("--root", type=Path, metavar="DIR", help=ROOT_HELP)
    add("--format", choices=("flac", "wav"), default="flac", help="of the recordings")
    add("--workers", type=int, help="processes; default: one a core")


def _add_common(add: Any, workers: str) -> None:
    add("--workers", type=int, help=workers)
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


if __name__ == "__main__":
    sys.exit(main())
