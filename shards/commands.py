"""What the command lines of the packages share: how a command is added, run, and how it fails."""

import argparse
import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, NoReturn

from shards import units
from shards.errors import DataError

# all that moves the cursor, hides, colours or turns text around; lines and tabs may stay
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

Commands = Any  # argparse's own class of sub-parsers is private


def plain(text: object) -> str:
    """Text that may be printed to a terminal, whatever a dataset put into it."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


class _Plain(logging.Formatter):
    """Records as plain text, tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Examples as they are written; defaults behind each option that has one and is no flag."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        untold = action.default is None or action.default is False or action.default == []
        return action.help if untold else super()._get_help_string(action)


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    *,
    examples: str = "",
    goes_on: bool = False,
) -> argparse.ArgumentParser:
    """Add a command that calls ``run`` with its arguments.

    Args:
        text: what it does, in a line.
        examples: printed as they are below its help.
        goes_on: run again, it goes on where it was interrupted.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=examples, formatter_class=Help
    )
    command.set_defaults(run=run, goes_on=goes_on, refuse=partial(_refuse, command))
    return command


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    log: logging.Logger,
    *,
    level: int = logging.INFO,
) -> int:
    """Run the command of a command line.

    Args:
        level: of what is logged to the terminal.

    Returns:
        Its exit status: the command's own, 1 if data or an argument is at fault, 130 if it was
        interrupted.
    """
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.refuse(unknown)
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("%(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    try:
        return int(args.run(args))
    except (DataError, ValueError, OSError) as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        again = "; run the same command again: what is finished is not made anew"
        log.error("interrupted%s", again if args.goes_on else "")
        return 130


def _refuse(command: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """End with the usage of a command that does not know some of its arguments."""
    options = re.findall(r"--[a-z-]+", command.format_usage())
    near = get_close_matches(unknown[0].partition("=")[0], options, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def number(text: str) -> float:
    """The type of an option that is a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


def size(text: str) -> int:
    """The type of an option that is a number of bytes, such as ``32MB``."""
    try:
        return units.size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def json_object(text: str) -> dict[str, Any]:
    """The type of an option that is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value
