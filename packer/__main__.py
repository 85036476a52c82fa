"""Pack recordings, MIDI and annotations into WebDataset shards."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from packer import examples
from packer.arguments import (
    DASK_HELP,
    ROOT_HELP,
    Add,
    add_checks,
    add_format,
    add_intake,
    add_repair,
    add_splits,
    value_range,
)
from packer.commands import (
    run_append,
    run_build,
    run_index,
    run_relabel,
    run_render,
    run_sample,
    run_verify,
    run_view,
)
from packer.interrupt import interruptible
from packer.memory import keep_freed
from shards.commands import Commands, Help, add_command, json_object, number, run_command

log = logging.getLogger("packer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if something is at fault, 130 if interrupted."""
    keep_freed()
    with interruptible():
        return run_command(_parser(), argv, log)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m packer", description=__doc__, epilog=examples.ALL, formatter_class=Help
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
    command = add_command(commands, "build", run_build, text, examples=examples.BUILD, goes_on=True)
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
    command = add_command(
        commands, "append", run_append, text, examples=examples.APPEND, goes_on=True
    )
    add = command.add_argument
    add("url", metavar="URL", help="a dataset, such as one split")
    add("annotations", type=Path, help="as for build")
    add("--spool", type=Path, metavar="DIR", help="local folder to pack in")
    _add_common(add, "encoding processes; default: one a core")
    add_intake(command.add_argument_group("what goes in").add_argument)
    add_checks(command.add_argument_group("what is checked").add_argument)


def _add_relabel(commands: Commands) -> None:
    text = "put new ratings beside the shards of a dataset, in place of all earlier ones"
    command = add_command(commands, "relabel", run_relabel, text, examples=examples.RELABEL)
    add = command.add_argument
    add("url", metavar="URL", help="a dataset, or a folder of splits")
    add("labels", type=Path, metavar="LABELS", help="JSON lines of keys and labels")
    add("--label-range", type=value_range, metavar="LO:HI", help="of all ratings, such as 0:100")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


def _add_verify(commands: Commands) -> None:
    text = "re-read every shard: checksums, index, counts, decoding"
    command = add_command(commands, "verify", run_verify, text, examples=examples.VERIFY)
    command.add_argument("url", metavar="URL", help="a dataset, or a folder of splits")
    _add_common(command.add_argument, "processes; default: one a core")
    add_repair(command.add_argument_group("repair").add_argument)


def _add_index(commands: Commands) -> None:
    text = "make manifest and indexes for tars that somebody else wrote"
    add = add_command(commands, "index", run_index, text, examples=examples.INDEX).add_argument
    add("url", metavar="URL", help="a folder of tars, or of such folders")
    add("--name", help="of the dataset; default: that of the folder")
    add("--overwrite", action="store_true", help="replace a manifest made in another way")
    _add_common(add, "processes; default: one a core")


def _add_view(commands: Commands) -> None:
    text = "make a page to look at a dataset and listen to it"
    add = add_command(commands, "view", run_view, text, examples=examples.VIEW).add_argument
    add("url", metavar="URL", help="a dataset, or a folder of splits")
    add("--out", type=Path, metavar="FILE", help="the page, in one file")
    add("--serve", action="store_true", help="serve it to this machine's browser instead")
    add("--port", type=int, default=0, help="of --serve; 0 takes any that is free")
    add("--samples", type=int, metavar="N", help="shown in a file, at most; default: 40")
    add("--shards", type=int, metavar="N", help="look only into N shards of each split")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


def _add_sample(commands: Commands) -> None:
    text = "make a small corpus of piano pieces, with audio, MIDI and labels"
    add = add_command(commands, "sample", run_sample, text, examples=examples.SAMPLE).add_argument
    add("folder", type=Path, metavar="DIR")
    add("--pieces", type=int, default=24, help="how many")
    add("--piece-seconds", type=number, default=60.0, help="length of each")
    add("--clip-seconds", type=number, default=10.0, help="length of a sample")
    add("--seed", type=int, default=0, help="of the music")
    add("--workers", type=int, help="processes; default: one a core")


def _add_render(commands: Commands) -> None:
    text = "make audio for annotations that have MIDI alone"
    add = add_command(
        commands, "render", run_render, text, examples=examples.RENDER, goes_on=True
    ).add_argument
    add("annotations", type=Path, help="JSON lines with midi_path")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the new corpus")
    add("--root", type=Path, metavar="DIR", help=ROOT_HELP)
    add("--format", choices=("flac", "wav"), default="flac", help="of the recordings")
    add("--workers", type=int, help="processes; default: one a core")


def _add_common(add: Add, workers: str) -> None:
    add("--workers", type=int, help=workers)
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")


if __name__ == "__main__":
    sys.exit(main())
