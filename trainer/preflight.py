"""python -m trainer preflight: looks at a run before it begins, and tells what it will be like."""

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from loader.doctor import summarise
from loader.finding import Finding, left_behind
from shards.commands import Help
from trainer.checks import WORDS, examine, row
from trainer.command import Command
from trainer.failures import run
from trainer.plan import Plan, PlanError, explain, plan_of

_EXAMPLES = """examples:
  python -m trainer preflight --config configs/experiment_10k.yaml --mode fusion
  python -m trainer preflight --config configs/experiment_10k.yaml --data.batch_size 64
  python -m trainer preflight --config configs/demo.yaml --json > preflight.json
  python -m trainer preflight --config C && python -m trainer fit --config C

It takes every option of fit. The exit status is 1 if anything fails, and 0 with warnings. Shards
that the loader fetches while it is timed stay in the cache.
"""


def main(name: str, argv: Sequence[str]) -> int:
    """Run the command; 1 if anything fails."""
    parser = argparse.ArgumentParser(
        prog=f"python -m trainer {name}",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    own, arguments = parser.parse_known_args(argv)
    found: list[Finding] = []
    broken = run(lambda: found.extend(_show(arguments, as_json=own.json)))
    status = broken or int(any(finding.state == "fail" for finding in found))
    if left_behind():  # which, in the midst of a step, PyTorch would end with an abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def findings(arguments: Sequence[str], *, short: bool = False) -> Iterator[Finding]:
    """What is found of a run with these arguments of ``fit``; ``short`` as for ``examine``."""
    try:
        plan = read_plan(arguments)
    except PlanError as error:
        yield Finding("fail", "config", str(error), error.remedy)
        return
    yield Finding("ok", "config", shlex.join(arguments))
    yield from examine(plan, short=short)


class _Reader(Command):
    """The command line of a run up to where it would build something."""

    def instantiate_classes(self) -> None: ...

    def _set_seed(self) -> None: ...


def read_plan(arguments: Sequence[str]) -> Plan:
    """The plan of ``fit`` with these arguments.

    Raises:
        PlanError: a file or key is unknown, or a value has the wrong type.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arguments that are not the process's own
            reader = _Reader(list(arguments), name="preflight", run=False)
    except SystemExit as error:
        if not error.code:  # --help or --print_config
            raise
        raise explain(said.getvalue()) from None
    return plan_of(reader.config.as_dict(), reader.folder.shown)


def _show(arguments: Sequence[str], *, as_json: bool) -> list[Finding]:
    """Print findings as they come, or all at the end as JSON."""
    began, found = time.perf_counter(), []
    for finding in findings(arguments):
        found.append(finding)
        if not as_json:
            print(row(finding), flush=True)
    if as_json:
        told: list[dict[str, Any]] = [one.to_json() | {"state": WORDS[one.state]} for one in found]
        print(json.dumps(told, indent=1))
    else:
        print(f"{summarise(found)} ({time.perf_counter() - began:.0f} s)")
    return found
