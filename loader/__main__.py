"""Prepare, measure and diagnose the streaming of shards."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from loader.bench import bench
from loader.cache import default_folder
from loader.doctor import examine
from loader.stage import stage
from shards.commands import add_command, json_object, run_command

log = logging.getLogger("loader")

_EXAMPLES = """examples:
  python -m loader doctor                                       is everything as it should be?
  python -m loader stage /content/drive/MyDrive/shards/train --cache-dir /content/cache
  python -m loader bench /content/cache/NAME                    how fast, and what limits it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if something is at fault, 130 if interrupted."""
    return run_command(_parser(), argv, log, level=logging.WARNING)


def _stage(args: argparse.Namespace) -> int:
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
    for folder in staged.folders:
        print(f"stream them from: {folder}")
    if not staged.folders:
        print(f"stream them with: make_pipeline({args.url!r}, cache_dir={str(args.cache_dir)!r})")
    return 0


def _bench(args: argparse.Namespace) -> int:
    results = bench(args.url, batch_size=args.batch_size, storage_options=args.storage_options)
    if args.json:
        print(json.dumps([result.to_json() for result in results], indent=1))
        return 0
    print(f"{'workers':>8} {'samples/s':>10}  limited by")
    for result in results:
        print(f"{result.workers:>8} {result.samples_per_s:>10.0f}  {result.limit}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    findings = examine(args.path)
    if args.json:
        print(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.state:>5}  {finding.subject}: {finding.text}")
            if finding.remedy:
                print(f"       {'':{len(finding.subject)}}  {finding.remedy}")
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loader",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = add_command(commands, "stage", _stage, "fetch shards into the local cache").add_argument
    add("url", metavar="URL", help="a dataset: a folder with a manifest, or tars")
    add("--cache-dir", type=Path, default=default_folder(), help="on a local disk")
    add("--cache-bytes", type=int, help="limit; default: half of what is free")
    add("--subset", type=int, metavar="N", help="only the shards of the first N samples")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")
    text = "samples/s by number of decoding threads, and what limits it"
    add = add_command(commands, "bench", _bench, text).add_argument
    add("url", metavar="URL")
    add("--batch-size", type=int, default=16)
    add("--json", action="store_true", help="for scripts")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")
    text = "check this machine: packages, decoders, disks, mounts; exit status 1 if one fails"
    add = add_command(commands, "doctor", _doctor, text).add_argument
    add("path", nargs="*", type=Path, metavar="PATH", help="folders whose disk or mount to check")
    add("--json", action="store_true", help="for scripts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
