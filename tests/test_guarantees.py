"""docs/guarantees.md: each promise names tests that there are, as many as it says, and a guard."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from snippets import ROOT
from test_faults_members import JSON_CLAIMS, MUTATED

_ROW = re.compile(r"^\| (\*\*.+) \| (.+) \| (.+) \|$")
_NAME = re.compile(r"`([^`]+)`")
_GUARDED = ("Faults", "Attacks")  # chapters whose rows have a guard each, which was taken out


@dataclass(frozen=True)
class Row:
    """A promise of the page, its figure, and its tests as (module, part of a name)."""

    chapter: str
    promise: str
    tests: frozenset[tuple[str, str]]
    figure: str

    def covers(self, module: str, name: str) -> bool:
        return any(module == own and part in name for own, part in self.tests)


def rows() -> Iterator[Row]:
    chapter = ""
    for line in (ROOT / "docs/guarantees.md").read_text().splitlines():
        if line.startswith("## "):
            chapter = line.removeprefix("## ")
        if (found := _ROW.match(line)) is not None:
            yield Row(chapter, found[1], frozenset(_tests(found[2])), found[3])


def _tests(cell: str) -> Iterator[tuple[str, str]]:
    module = ""
    for name in _NAME.findall(cell):
        if name.startswith("test_"):
            module = name
        elif not name.endswith(".py"):  # a benchmark
            yield module, name


ROWS = list(rows())


@pytest.fixture(scope="module")
def collected() -> dict[str, list[str]]:
    """Names of the tests of each module that the page names; none where a package is missing."""
    modules = sorted({module for row in ROWS for module, _ in row.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/{module}.py" for module in modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    found: dict[str, list[str]] = {module: [] for module in modules}
    for line in done.stdout.splitlines():
        if line.startswith("tests/"):
            path, _, name = line.partition("::")
            found[path.removeprefix("tests/").removesuffix(".py")].append(name)
    return found


def test_the_page_has_a_row_for_each_promise():
    assert len(ROWS) > 60
    assert all(row.tests for row in ROWS)


def test_each_promise_names_tests_that_there_are(collected):
    for row in ROWS:
        for module, part in row.tests:
            if collected[module]:
                assert any(part in name for name in collected[module]), (row.promise, module, part)
            else:
                assert (ROOT / "tests" / f"{module}.py").exists(), (row.promise, module)


def test_each_promise_tells_how_many_cases_there_are(collected):
    for row in ROWS:
        if not all(collected[module] for module, _ in row.tests):
            continue
        names = [name for m, found in collected.items() for name in found if row.covers(m, name)]
        told = re.match(r"(\d+) cases?(;|$)", row.figure)
        assert told, f"{row.promise}: its figure begins with the number of its cases"
        assert int(told[1]) == len(names), f"{row.promise}: there are {len(names)} cases"


def test_figures_of_tests_are_theirs():
    text = (ROOT / "docs/guarantees.md").read_text()
    assert f"; {MUTATED} mutated files" in text
    assert f"; {len(JSON_CLAIMS)} claims" in text


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def guards(benchmark):
    """What benchmarks/guards.toml lists."""
    return benchmark("guards").guards()


def test_what_was_not_recorded_is_told_so(benchmark):
    promises = benchmark("promises")
    told = [promises.guards({}), promises.fuzz({}), promises.fuzzed({}, "tar")]
    assert all("not recorded yet" in text for text in [*told, promises.stormed({}, "")])


def test_guards_that_were_not_missed_are_told(benchmark):
    promises, machine = benchmark("promises"), {"date": "2026-01-01", "commit": "abc"}
    found = {"guards": {"machine": machine, "noticed": 2, "guards": {"a": "fails", "b": "fails"}}}
    assert "So 2 guards were taken out (2026-01-01, commit abc)" in promises.guards(found)
    found["guards"]["guards"]["c"] = "passes"
    assert "Of 1 the tests did not fail without them. [" in promises.guards(found)
    found["guards"]["guards"]["d"] = "is skipped"
    told = promises.guards(found)
    assert "Of 1 the tests did not fail without them. Of 1 they need what that machine" in told


def test_each_promise_has_a_guard_that_is_taken_out(guards):
    guarded = {(g.module, part) for g in guards for part in g.test.split(" or ")}
    for row in ROWS:
        if row.chapter in _GUARDED:
            assert row.tests & guarded, f"{row.promise}: benchmarks/guards.toml has no guard of it"


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ("def test_it(): assert GUARDED", "fails"),
        ("def test_it(): pass", "passes"),
        ("def test_it(): pytest.skip('no FUSE')", "is skipped"),
        ("def test_it(nothing): pass", "cannot begin: an error in a fixture"),
        (
            "@pytest.fixture\ndef it():\n    yield\n    assert GUARDED\ndef test_it(it): pass",
            "fails",
        ),
        ("def test_other(): pass", "pytest ends with 5"),
    ],
)
def test_what_a_test_does_without_its_guard_is_told_apart(benchmark, tmp_path, test, outcome):
    guards, tree = benchmark("guards"), tmp_path / "tree"
    (tree / "tests").mkdir(parents=True)
    (tree / "tests/test_a.py").write_text(f"import pytest\nGUARDED = True\n{test}\n")
    edits = (("tests/test_a.py", "GUARDED = True", "GUARDED = False"),)
    assert guards._try(tree, guards.Guard("p", "test_a", "test_it", edits)) == outcome
    assert "GUARDED = True" in (tree / "tests/test_a.py").read_text()


def test_an_interrupt_ends_the_tests_of_a_guard_too(tmp_path):
    (tmp_path / "test_a.py").write_text(
        "import os, pathlib, time\n"
        "def test_it():\n"
        "    pathlib.Path('pid').write_text(str(os.getpid()) + ' ')\n"
        "    time.sleep(60)\n"
    )
    code = "import guards, pathlib; guards._pytest(pathlib.Path.cwd(), ['test_a.py'])"
    own = os.environ | {"PYTHONPATH": f"{ROOT / 'benchmarks'}{os.pathsep}{ROOT}"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=own) as run:
        end, pid = time.monotonic() + 60, tmp_path / "pid"
        while not (pid.exists() and pid.read_text().endswith(" ")) and time.monotonic() < end:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        run.wait(30)
    assert not Path("/proc", pid.read_text().strip()).exists()
