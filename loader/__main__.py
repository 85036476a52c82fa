"""Prepare, measure and diagnose the streaming of shards."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loader.bench import bench
from loader.cache import default_folder
from loader.doctor import examine
from loader.stage import stage
from shards.errors import DataError

log = logging.getLogger("loader")

_EXAMPLES = """examples:
  python -m loader doctor                                       is everything as it should be?
  python -m loader stage /content/drive/MyDrive/shards/train --cache-dir /content/cache
  python -m loader bench /content/cache/NAME                    how fast, and what limits it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if something is wrong, 130 if interrupted."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        return int(args.run(args))
    except (DataError, ValueError, OSError) as error:  # a bug of ours still ends in a traceback
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted; the same command goes on where this one stopped")
        return 130


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
    add = _add(commands, "stage", _stage, "fetch shards into the local cache").add_argument
    add("url", metavar="URL", help="a dataset: a folder with a manifest, or tars")
    add("--cache-dir", type=Path, default=default_folder(), help="on a local disk")
    add("--cache-bytes", type=int, help="limit; default: half of what is free")
    add("--subset", type=int, metavar="N", help="only the shards of the first N samples")
    add("--storage-options", type=_object, metavar="JSON", help="passed to fsspec")
    text = "samples/s by number of decoding threads, and what limits it"
    add = _add(commands, "bench", _bench, text).add_argument
    add("url", metavar="URL")
    add("--batch-size", type=int, default=16)
    add("--json", action="store_true", help="for scripts")
    add("--storage-options", type=_object, metavar="JSON", help="passed to fsspec")
    text = "check this machine: packages, decoders, disks, mounts; exit status 1 if one fails"
    add = _add(commands, "doctor", _doctor, text).add_argument
    add("path", nargs="*", type=Path, metavar="PATH", help="folders whose disk or mount to check")
    add("--json", action="store_true", help="for scripts")
    return parser


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def _add(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


if __name__ == "__main__":
    sys.exit(main())
