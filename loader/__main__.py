"""Prepare, measure and diagnose the streaming of shards."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from loader.cache import default_folder
from shards.commands import Commands, add_command, json_object, number, plain, run_command, size

log = logging.getLogger("loader")

_EXAMPLES = """examples:
  python -m loader doctor                                       is everything as it should be?
  python -m loader stage /content/drive/MyDrive/shards/train --cache-dir /content/cache
  python -m loader bench /content/cache/NAME                    how fast, and what limits it
"""
_STAGE_EXAMPLES = """examples:
  python -m loader stage gs://bucket/shards/train --cache-dir /scratch/cache
  python -m loader stage hf://datasets/OWNER/NAME/train --cache-dir /content/cache --subset 2000
"""
_BENCH_EXAMPLES = """examples:
  python -m loader bench /data/shards/train --out bench.png
  python -m loader bench gs://bucket/shards/train --subset 2000 --cache-dir /scratch/cache
  python -m loader bench /data/shards/train --batch-size 64 --step-ms 120    is the GPU kept fed?
  python -m loader bench /data/shards/train --caches raw --json > bench.json

The first pass fetches what the cache lacks; what is fetched and decoded stays in the cache.
"""
_DOCTOR_EXAMPLES = """examples:
  python -m loader doctor
  python -m loader doctor /content/drive/MyDrive/shards    the mount and a dataset on it, too
  python -m loader doctor --json > machine.json            to be sent along with a question
  python -m loader doctor && python -m trainer fit ...     train only where nothing fails

The exit status is 1 if anything fails, and 0 with warnings.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if something is at fault, 130 if interrupted."""
    return run_command(_parser(), argv, log, level=logging.WARNING)


# What a command needs is imported by the command: help comes at once, and the doctor looks at a
# machine whose PyTorch or decoders cannot be imported.


def _stage(args: argparse.Namespace) -> int:
    from loader.stage import stage

    staged = stage(
        args.url,
        cache_dir=args.cache_dir,
        cache_bytes=args.cache_bytes,
        subset=args.subset,
        storage_options=args.storage_options,
    )
    print(
        f"{staged.shards} shards, {staged.bytes / 1e6:.1f} MB, of which "
        f"{staged.fetched_bytes / 1e6:.1f} MB were fetched"
    )
    part = "" if args.subset is None else f", subset={args.subset}"  # not all shards are there
    for folder in staged.folders:
        code = f"make_pipeline({str(folder)!r}{part})"
        print(f"stream them with: {code}" if part else f"stream them from: {folder}")
    if not staged.folders:
        cache_dir = str(args.cache_dir)
        print(f"stream them with: make_pipeline({args.url!r}, cache_dir={cache_dir!r}{part})")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from loader.bench import CACHES, Task, bench
    from loader.chart import draw, require_drawing
    from loader.table import write_report

    if args.out is not None:
        require_drawing(args.out)
    if unknown := [name for name in args.caches or () if name not in CACHES]:
        raise ValueError(f"--caches takes {' and '.join(CACHES)}, got {unknown[0]!r}")
    task = Task(
        args.url,
        seconds=args.seconds,
        batch_size=args.batch_size,
        caches=args.caches,
        cache_dir=args.cache_dir,
        subset=args.subset,
        sample_rate=args.sample_rate,
        clip_seconds=args.clip_seconds,
        step_ms=args.step_ms,
        storage_options=args.storage_options,
    )
    report = bench(task)
    print(json.dumps(report.to_json(), indent=1) if args.json else plain(write_report(report)))
    if args.out is not None:
        draw(report, args.out)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from loader.doctor import examine, summarise, write_finding

    findings = []
    for finding in examine(args.path):
        findings.append(finding)
        if not args.json:
            print(plain(write_finding(finding)), flush=True)
    if args.json:
        print(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        print(plain(summarise(findings)))
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def _bytes(text: str) -> int:
    return int(text) if text.isdecimal() else size(text)


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is no folder of this machine; python -m loader bench {text} measures a link"
        )
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loader",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_stage(commands)
    _add_bench(commands)
    _add_doctor(commands)
    return parser


def _add_stage(commands: Commands) -> None:
    text = "fetch shards into the local cache"
    add = add_command(
        commands, "stage", _stage, text, examples=_STAGE_EXAMPLES, goes_on=True
    ).add_argument
    add("url", metavar="URL", help="a dataset: a folder with a manifest, or tars")
    add("--cache-dir", type=Path, default=default_folder(), help="on a local disk")
    text = "limit, such as 50GB; default: half of what is free"
    add("--cache-bytes", type=_bytes, metavar="SIZE", help=text)
    add("--subset", type=int, metavar="N", help="only the shards of the first N samples")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


def _add_bench(commands: Commands) -> None:
    text = "samples/s by cache and number of decoding threads, and what limits it"
    add = add_command(commands, "bench", _bench, text, examples=_BENCH_EXAMPLES).add_argument
    add("url", metavar="URL", help="a dataset: a folder with a manifest, or tars")
    add("--seconds", type=number, default=2.0, help="for each setting")
    add("--batch-size", type=int, default=16, help="samples of a batch")
    add(
        "--caches",
        type=_names,
        metavar="LIST",
        help="raw, decoded or both: raw,decoded; default: raw, and decoded where it fits into half "
        "of the free memory",
    )
    add("--cache-dir", type=Path, default=default_folder(), help="on a local disk")
    add("--subset", type=int, metavar="N", help="only the first N samples")
    add("--sample-rate", type=int, default=24000, metavar="HZ", help="as you train with it")
    add("--clip-seconds", type=number, default=10.0, metavar="S", help="as you train with it")
    add("--step-ms", type=number, default=0.0, metavar="T", help="a training step after each batch")
    add("--out", type=Path, metavar="FILE", help="draw a picture: .png, .svg or .pdf")
    add("--json", action="store_true", help="for scripts")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


def _add_doctor(commands: Commands) -> None:
    text = "check this machine: packages, decoders, cores, memory, GPU, disks, mounts"
    add = add_command(commands, "doctor", _doctor, text, examples=_DOCTOR_EXAMPLES).add_argument
    add("path", nargs="*", type=_folder, metavar="PATH", help="folders to check reading from, too")
    add("--json", action="store_true", help="for scripts")


if __name__ == "__main__":
    sys.exit(main())
