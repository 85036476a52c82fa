"""Takes each guard out of the code, one at a time, and sees whether its test fails.

    python benchmarks/guards.py --out benchmarks/results/guards.json
    python benchmarks/guards.py stalls "a deleted cache"    those whose promise says so

A test that passes although what it is to protect is gone protects nothing. Which guards there are,
what is put in place of each and which test has to notice stands in ``guards.toml``; where one is
several checks that stand in for each other, they go together. All of it happens in a copy of the
files that git knows. First those tests are run as they are, and have to pass; the exit status is 1
unless each guard was missed. A test that is skipped, such as for want of FUSE, shows nothing, nor
does one whose fixture fails before it begins.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from machine import describe
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_suffix(".toml")
LONGEST_S = 240
PASSED, FAILED = 0, 1  # statuses of pytest
NOTICED = ("fails", "the process dies")
SKIPPED = "is skipped"


@dataclass(frozen=True)
class Guard:
    """A guard, what becomes of the code without it, and who has to notice.

    Attributes:
        promise: what does not hold without it.
        module: of tests/.
        test: a part of the names of its tests, as ``pytest -k`` takes it.
        edits: (file, text, what takes its place), each.
    """

    promise: str
    module: str
    test: str
    edits: tuple[tuple[str, str, str], ...]

    @property
    def chosen(self) -> list[str]:
        """The tests, as pytest is told."""
        return [f"tests/{self.module}.py", "-k", self.test]

    @property
    def files(self) -> str:
        return ", ".join(dict.fromkeys(file for file, _, _ in self.edits))


class GoneError(Exception):
    """The code was changed where a guard was."""


def guards() -> list[Guard]:
    """All that are listed."""
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))["guard"]
    return [
        Guard(one["promise"], *one["test"].split(": "), tuple(map(tuple, one["edits"])))
        for one in listed
    ]


def main() -> int:
    args = _arguments()
    chosen = [g for g in guards() if not args.words or any(w in g.promise for w in args.words)]
    tree = args.work / "tree"
    _copy(tree)
    broken = _fails_as_it_is(tree, chosen)
    outcomes: dict[str, str] = {}
    bar = tqdm(chosen, unit="guard", desc="without it", disable=None)
    for guard in bar:
        bar.set_postfix_str(guard.promise)
        outcome = "fails as it is" if guard.module in broken else _try(tree, guard)
        outcomes[guard.promise] = outcome
        if outcome not in NOTICED:
            tqdm.write(f"{guard.promise}: {outcome}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(_report(chosen, outcomes, args), indent=1) + "\n")
    unnoticed = [promise for promise, outcome in outcomes.items() if outcome not in NOTICED]
    print(f"{len(outcomes) - len(unnoticed)} of {len(outcomes)} guards are missed by their tests")
    return int(bool(unnoticed))


def _try(tree: Path, guard: Guard) -> str:
    """What the tests of a guard do without it."""
    try:
        with _without(tree, guard):
            status = _pytest(tree, [*guard.chosen, "-x"])
    except GoneError:
        return "is not where the list says"
    if status is None:
        return f"goes on after {LONGEST_S} s"
    if status < 0:
        return "the process dies"
    if status not in (PASSED, FAILED):
        return f"pytest ends with {status}"
    return _told(_report_of(tree))


def _told(report: Path) -> str:
    """What a report of pytest says of all tests of a guard together."""
    cases = ElementTree.parse(report).findall(".//testcase")  # noqa: S314 - pytest wrote it
    errors = [error.get("message", "") for case in cases for error in case.findall("error")]
    # what is checked when a test is over, such as that nothing stays, is part of the test
    if any(case.find("failure") is not None for case in cases):
        return "fails"
    if errors:
        after = any(error.startswith("failed on teardown") for error in errors)
        return "fails" if after else "cannot begin: an error in a fixture"
    return SKIPPED if all(case.find("skipped") is not None for case in cases) else "passes"


def _fails_as_it_is(tree: Path, chosen: Sequence[Guard]) -> set[str]:
    """Modules whose tests do not pass with all guards in their places."""
    parts: dict[str, list[str]] = {}
    for guard in chosen:
        parts.setdefault(guard.module, []).append(f"({guard.test})")
    bar = tqdm(parts.items(), unit="module", desc="as it is", disable=None)
    return {
        module
        for module, found in bar
        if _pytest(tree, [f"tests/{module}.py", "-k", " or ".join(dict.fromkeys(found))]) != PASSED
    }


@contextmanager
def _without(tree: Path, guard: Guard) -> Iterator[None]:
    """The tree while a guard is out of it.

    Raises:
        GoneError: if it is not in there, once.
    """
    kept = {file: (tree / file).read_text(encoding="utf-8") for file, _, _ in guard.edits}
    try:
        for file, old, new in guard.edits:
            text = (tree / file).read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise GoneError
            (tree / file).write_text(text.replace(old, new), encoding="utf-8")
        yield
    finally:
        for file, text in kept.items():
            (tree / file).write_text(text, encoding="utf-8")


def _pytest(tree: Path, options: Sequence[str]) -> int | None:
    """The exit status of a run, negative after a signal; None if it takes too long."""
    # a file that is written again within a second would be taken for what was compiled of it
    own = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"--junitxml={_report_of(tree)}", *options]
    silent = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=tree, env=own, stdout=silent, stderr=silent, start_new_session=True
    ) as run:
        try:
            return run.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            return None
        finally:  # a session of its own hears nothing of Ctrl-C
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()


def _report_of(tree: Path) -> Path:
    """Where the latest run of pytest in a tree told of its tests."""
    return tree.with_name("pytest.xml").absolute()


def _copy(tree: Path) -> None:
    """What git knows, as it lies there now."""
    shutil.rmtree(tree, ignore_errors=True)
    git = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(git, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)


def _report(
    chosen: Sequence[Guard], outcomes: dict[str, str], args: argparse.Namespace
) -> dict[str, Any]:
    rows = [
        [guard.promise, guard.files, f"`{guard.module}`: `{guard.test}`", outcomes[guard.promise]]
        for guard in chosen
    ]
    return {
        "machine": describe("pytest", "torch", "numpy", "miniaudio", "symusic"),
        "command": " ".join(["python benchmarks/guards.py", *args.words]),
        "measure": "One run",
        "noticed": sum(outcome in NOTICED for outcome in outcomes.values()),
        "guards": outcomes,
        "tables": [
            {
                "title": "What its test does without it",
                "columns": ["guard of", "taken out of", "test", "without it"],
                "rows": rows,
            }
        ],
        "notes": [],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="TEXT", help="of the promises to try; all")
    parser.add_argument("--work", type=Path, default=Path("build/guards"))
    parser.add_argument("--out", type=Path, default=Path("build/guards.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
