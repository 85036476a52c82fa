"""The options of a build, and their values as they are written on a command line."""

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.commands import number, size

log = logging.getLogger("packer")

DASK_HELP = "use a Dask cluster, such as tcp://HOST:8786; local: one on this machine"
ROOT_HELP = "where relative paths start; default: the annotations' folder"

Add = Callable[..., Any]  # a parser's add_argument


def share(text: str) -> float:
    """A part of all, such as ``1%`` or ``0.01``."""
    value = number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if text == "1":
        log.warning("--max-rejected 1 is all of them: say 1%, or 100% if that is meant")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1, or 0% and 100%")
    return value


def shares(text: str) -> dict[str, float]:
    """Names and their shares, such as ``train=0.9,val=0.1``."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=SHARE")
        if name in found:
            raise argparse.ArgumentTypeError(f"{name!r} has two shares")
        found[name] = number(value)
    return found


def prefix(text: str) -> tuple[str, str]:
    """``OLD=NEW``."""
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW")
    return old, new


def value_range(text: str) -> tuple[float, float]:
    """Lowest and highest value, such as ``0:100``."""
    low, colon, high = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOWEST:HIGHEST, such as 0:100")
    found = (number(low), number(high))
    if not found[0] < found[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the lowest comes first, as in 0:100")
    return found


def add_intake(add: Add) -> None:
    """Options of a build: what goes in."""
    add("--root", type=Path, metavar="DIR", help=ROOT_HELP)
    add(
        "--rewrite",
        type=prefix,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="replace a prefix of paths, for annotations of another machine",
    )
    add("--only", choices=("audio", "midi"), help="leave the other out")
    add("--whole", action="store_true", help="take whole recordings, whatever segment a line names")
    add(
        "--segment",
        type=number,
        metavar="S",
        help="cut recordings, or the segments that lines name, into windows of S seconds; a rest "
        "of at least half of it becomes a shorter window",
    )
    add("--hop", type=number, metavar="S", help="from window to window; default: --segment")
    add("--subset", type=int, metavar="N", help="only N samples, always the same ones")


def add_checks(add: Add) -> None:
    """Options of a build: what is checked."""
    add(
        "--max-rejected",
        type=share,
        default="1%",
        metavar="SHARE",
        help="of the annotations that may be left out without an error; rejected.jsonl lists them",
    )
    add(
        "--tolerance",
        type=number,
        default=0.5,
        metavar="S",
        help="by which the notes of a MIDI file may outlast its recording, or end before its tail",
    )
    add("--label-range", type=value_range, metavar="LO:HI", help="of all ratings, such as 0:100")
    add("--io-threads", type=int, default=16, metavar="N", help="sources read at a time")


def add_repair(add: Add) -> None:
    """Options of verify: what bad shards are remade from."""
    text = "remake bad shards from what they were packed of; options as they were for build"
    add("--repair", type=Path, metavar="ANNOTATIONS", help=text)
    add("--spool", type=Path, metavar="DIR", help="local folder to encode in")
    add_intake(add)
    add_checks(add)


def add_splits(add: Add) -> None:
    """Options of a build: splits and order."""
    add(
        "--split",
        type=shares,
        default={},
        metavar="train=0.8,val=0.1,test=0.1",
        help="make a dataset of each share",
    )
    add("--split-by", metavar="FIELD", help="make a dataset of each value of it, as in MAESTRO")
    add("--group-by", metavar="FIELD", help="no value of it in two splits; default: the recording")
    text = "given: as the annotations come, the samples of a recording together"
    add("--order", choices=("shuffled", "given"), default="shuffled", help=text)
    add("--seed", type=int, default=0, help="of the order of samples, and of the splits")
    add("--shuffle-group", type=size, default="8GB", metavar="SIZE", help="shuffled together")


def add_format(add: Add) -> None:
    """Options of a build: what comes out."""
    codecs = ("flac", "wav", "ogg", "opus", "mp3", "npy", "copy")
    add("--audio", choices=codecs, default="flac", help="codec of the audio")
    add("--midi", choices=("mid", "notes"), default="mid", help="notes: a table beside the file")
    add("--sample-rate", type=int, default=24000, metavar="HZ", help="audio is resampled to this")
    add("--channels", type=int, choices=(1, 2), default=1, help="1: mixed to mono")
    add("--shard-size", type=size, default="32MB", metavar="SIZE", help="planned for each shard")
