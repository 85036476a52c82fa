"""Pack recordings, MIDI and annotations into WebDataset shards."""

import argparse
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packer.build import Built, build
from packer.corpus import write_corpus
from packer.options import Options
from packer.render import FORMATS, render_annotations
from packer.verify import verify
from shards.commands import add_command, json_object, run_command

log = logging.getLogger("packer")

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SMALLEST = 10_000  # bytes, below which a number without a unit is a slip
_EXAMPLES = """examples:
  python -m packer sample demo                        a small corpus to try everything on
  python -m packer build demo/annotations.jsonl --out demo/shards --split train=0.8,val=0.2
  python -m packer verify demo/shards                 read every sample back
  python -m packer render midi-only.jsonl --out rendered    audio for annotations without
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if something is at fault, 130 if interrupted."""
    return run_command(_parser(), argv, log)


def _build(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    built = build(
        args.annotations,
        args.out,
        options=Options(
            audio=args.audio,
            sample_rate=args.sample_rate,
            shard_bytes=args.shard_size,
            group_bytes=args.shuffle_group,
            seed=args.seed,
            split=args.split,
            group_by=args.group_by,
        ),
        root=args.root,
        rewrite=dict(args.rewrite),
        name=args.name,
        workers=args.workers,
        max_rejected=args.max_rejected,
        overwrite=args.overwrite,
        storage_options=args.storage_options,
    )
    for one in built:
        _tell(one)
    seconds = time.perf_counter() - began
    print(f"{seconds:.1f} s. Read it back with: python -m packer verify {args.out}")
    return 0


def _tell(built: Built) -> None:
    manifest = built.manifest
    print(
        f"{built.url}: {'made' if built.made else 'complete already'}: {manifest.samples} samples, "
        f"{manifest.duration_s / 3600:.2f} h, {len(manifest.shards)} shards, "
        f"{manifest.bytes / 1e6:.1f} MB"
    )


def _verify(args: argparse.Namespace) -> int:
    faults = 0
    for result in verify(args.url, storage_options=args.storage_options, workers=args.workers):
        for fault in result.faults:
            log.error("%s", fault)
        faults += len(result.faults)
        state = f"{len(result.faults)} faults" if result.faults else "all good"
        print(f"{result.url}: {result.samples} samples in {result.shards} shards: {state}")
    return 1 if faults else 0


def _sample(args: argparse.Namespace) -> int:
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
        prog="python -m packer",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)
    _add_verify(commands)
    _add_sample(commands)
    _add_render(commands)
    return parser


def _add_build(commands: Any) -> None:
    add = add_command(commands, "build", _build, "pack annotations into shards").add_argument
    add("annotations", type=Path, help="JSON lines, one sample each")
    add("--out", required=True, metavar="URL", help="folder to make, local or any fsspec URL")
    add(
        "--root",
        type=Path,
        help="where relative paths start; default: the annotation file's folder",
    )
    add("--name", help="of the dataset; default: the annotation file's stem")
    add("--audio", choices=("flac", "wav", "npy"), default="flac", help="codec of the audio")
    add("--sample-rate", type=int, default=24000, metavar="HZ", help="audio is resampled to this")
    add("--shard-size", type=_size, default="32MB", metavar="SIZE", help="planned for each shard")
    add("--shuffle-group", type=_size, default="8GB", metavar="SIZE", help="shuffled together")
    add("--seed", type=int, default=0, help="of the order of samples")
    add(
        "--split",
        type=_shares,
        default={},
        metavar="train=0.8,val=0.1,test=0.1",
        help="make a dataset of each share",
    )
    add("--group-by", metavar="FIELD", help="no value of it in two splits; default: the recording")
    add(
        "--rewrite",
        type=_prefix,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="replace a prefix of paths, for annotations of another machine",
    )
    add(
        "--max-rejected",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="of the annotations that may be left out, such as 1%%; they go to rejected.jsonl",
    )
    add("--overwrite", action="store_true", help="replace what is in the folder")
    _add_common(add, "encoding processes; default: one a core")


def _add_verify(commands: Any) -> None:
    text = "re-read every shard: checksums, index, counts, decoding"
    add = add_command(commands, "verify", _verify, text).add_argument
    add("url", metavar="URL", help="a dataset, or a folder of splits")
    _add_common(add, "processes; default: one a core")


def _add_sample(commands: Any) -> None:
    text = "make a small corpus of piano pieces, with audio, MIDI and labels"
    add = add_command(commands, "sample", _sample, text).add_argument
    add("folder", type=Path, metavar="DIR")
    add("--pieces", type=int, default=24, help="how many")
    add("--piece-seconds", type=float, default=60.0, help="length of each")
    add("--clip-seconds", type=float, default=10.0, help="length of a sample")
    add("--seed", type=int, default=0)
    add("--workers", type=int, help="processes; default: one a core")


def _add_render(commands: Any) -> None:
    text = "make audio for annotations that have MIDI alone"
    add = add_command(commands, "render", _render, text).add_argument
    add("annotations", type=Path, help="JSON lines with midi_path")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the new corpus")
    add(
        "--root",
        type=Path,
        help="where relative paths start; default: the annotation file's folder",
    )
    add("--format", choices=FORMATS, default="flac", help="of the recordings")
    add("--workers", type=int, help="processes; default: one a core")


def _add_common(add: Any, workers: str) -> None:
    add("--workers", type=int, help=workers)
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+) *([KMGT]?B?)", text.strip().upper())
    if not match or (match[2] and match[2] not in _UNITS):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 32MB")
    size = round(float(match[1]) * _UNITS[match[2]])
    if size < _SMALLEST and not match[2]:
        raise argparse.ArgumentTypeError(f"{text} is {text} bytes: say {text}MB, or {text}B")
    return size


def _share(text: str) -> float:
    value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def _shares(text: str) -> dict[str, float]:
    shares = {}
    for part in text.split(","):
        name, equals, share = part.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=SHARE")
        shares[name] = float(share)
    return shares


def _prefix(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW")
    return old, new


if __name__ == "__main__":
    sys.exit(main())
