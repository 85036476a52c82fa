"""The same faults put to clavier, webdataset, mosaicml-streaming and litdata: what each does.

    python benchmarks/faults/run.py --out benchmarks/results/faults.json

The others are in the venvs of ``benchmarks.peers`` (--venvs), which are made if they are not there.
FUSE (fuse3, mfusepy) and root (for a small tmpfs) are needed; what is missing is said. Every
library reads 240 samples out of 8 files of its own format, in stored order, in a process of its own
with a time limit. How each is wired, in ``read.py``: clavier caches the local folder as if it were
a mount (``cache_mount``); webdataset has a ``cache_dir``, but puts no local file into it, so what
is done to caches does not apply to it; mosaicml-streaming has a ``remote`` and a ``local``; litdata
has ``Dir(path=CACHE, url="local:FOLDER")``. All else is their defaults.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(ROOT / "tests"), str(ROOT)]

from faultmount import mounted  # noqa: E402 - lies beside the tests
from machine import command, describe  # noqa: E402 - lies beside the benchmarks
from tables import markdown  # noqa: E402 - lies beside the benchmarks
from web import serve  # noqa: E402 - lies beside the tests

from benchmarks.peers.catalog import OWN  # noqa: E402 - of the repository
from benchmarks.peers.venvs import python_of  # noqa: E402 - of the repository

LIBRARIES = ("clavier", "webdataset", "streaming", "litdata")
VENVS = {"clavier": OWN, "webdataset": "shared", "streaming": "mosaicml", "litdata": "shared"}
NAMES = {"streaming": "mosaicml-streaming"}
HTTP = ("clavier", "webdataset")  # the others read none
CACHING = ("clavier", "streaming", "litdata")  # a local folder, too
NO_CACHE: dict[str, Any] = {"error": "", "not_applicable": "does not apply: caches no local files"}
LIMIT_S = 60.0
WIRED = (
    "clavier caches the local folder as if it were a mount (`cache_mount=True`), webdataset has a "
    "`cache_dir`, mosaicml-streaming a `remote` and a `local`, litdata `Dir(path=CACHE, "
    'url="local:FOLDER")`; nothing is shuffled, all else is their defaults.'
)

Outcome = dict[str, Any]
Read = Callable[[str, Path], Outcome]


class Contest:
    """One library, its dataset, and how to read it."""

    def __init__(self, library: str, python: Path, work: Path) -> None:
        self.library, self._python = library, python
        self.data, self.work = work / library / "data", work / library
        self.version = ""

    def write(self) -> None:
        """Raise RuntimeError with what the library says if it cannot write its dataset."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.data.mkdir(parents=True)
        done = self._run("write", str(self.data))
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        self.version = json.loads(done.stdout.splitlines()[-1])["version"]

    def read(self, url: str, cache: Path) -> Outcome:
        """An epoch, in a process that may fail, hang or die."""
        cache.mkdir(parents=True, exist_ok=True)
        try:
            done = self._run("read", url, str(cache))
        except subprocess.TimeoutExpired:
            return {"error": f"no end within {LIMIT_S:.0f} s"}
        try:
            found: Outcome = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            last = done.stderr.strip().splitlines()[-1:] or [""]
            return {"error": f"ended with status {done.returncode}: {last[0][:200]}"}
        return found

    def read_and_kill(self, url: str, cache: Path) -> None:
        """Begin an epoch and send SIGKILL at its first sample."""
        cache.mkdir(parents=True, exist_ok=True)
        command, environment = self._command("read", url, str(cache))
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()

    def fresh(self, name: str) -> Path:
        """A copy of the dataset, to be damaged."""
        copy = self.work / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.data, copy)
        return copy

    def files(self, folder: Path) -> list[Path]:
        """The files that hold the samples."""
        return sorted(p for p in folder.iterdir() if p.suffix in (".tar", ".mds", ".bin"))

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command, environment = self._command(*arguments)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, env=environment
        )

    def _command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        command = [str(self._python), str(HERE / "read.py"), self.library, *arguments]
        return command, {**os.environ, "PYTHONPATH": str(ROOT)}


def eio(contest: Contest, share: float) -> Outcome:
    with mounted(contest.data) as mount:
        mount.set(share=share)
        found = contest.read(str(mount.point), contest.work / f"cache-eio-{share}")
        return found | {"injected": mount.injected}


def flipped_bit(contest: Contest) -> Outcome:
    folder = contest.fresh("flipped")
    victim = contest.files(folder)[2]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    return contest.read(str(folder), contest.work / "cache-flipped")


def truncated(contest: Contest) -> Outcome:
    folder = contest.fresh("truncated")
    victim = contest.files(folder)[2]
    os.truncate(victim, victim.stat().st_size * 2 // 3)
    return contest.read(str(folder), contest.work / "cache-truncated")


def cut_body(contest: Contest) -> Outcome:
    if contest.library not in HTTP:
        return {"error": "", "not_applicable": "reads no http:// URLs"}
    with serve(contest.data) as web:
        asked: set[str] = set()

        def cut_the_first(path: str) -> None:
            if path.endswith(".tar") and path not in asked:
                asked.add(path)
                web.cuts, web.cut_after = 1, 100_000

        web.before = cut_the_first
        return contest.read(web.url, contest.work / "cache-cut")


def full_disk(contest: Contest) -> Outcome:
    if contest.library not in CACHING:
        return NO_CACHE
    with small_disk(contest.work / "disk") as disk:
        return contest.read(str(contest.data), disk / "cache")


def killed(contest: Contest) -> Outcome:
    if contest.library not in CACHING:
        return NO_CACHE
    cache = contest.work / "cache-killed"
    for _ in range(3):
        contest.read_and_kill(str(contest.data), cache)
    return contest.read(str(contest.data), cache)


@contextmanager
def small_disk(point: Path) -> Iterator[Path]:
    """1.5 MB, of 4 that the samples take."""
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


FAULTS: dict[str, Callable[[Contest], Outcome]] = {
    "no fault": lambda contest: contest.read(str(contest.data), contest.work / "cache"),
    "EIO on 1% of reads": lambda contest: eio(contest, 0.01),
    "EIO on 10% of reads": lambda contest: eio(contest, 0.1),
    "flipped bit in a shard": flipped_bit,
    "truncated shard": truncated,
    "HTTP bodies cut short once": cut_body,
    "disk of the cache full": full_disk,
    "kill -9 three times, then again": killed,
}


def main() -> None:
    args = _arguments()
    libraries: dict[str, Any] = {}
    for library in args.libraries:
        python = python_of(args.venvs.resolve(), VENVS[library])
        contest = Contest(library, python, args.work.resolve())
        libraries[library] = _try_all(contest)
    report = {
        "machine": describe("torch"),
        "command": command("benchmarks/faults/run.py", args),
        "measure": "One run",
        "libraries": libraries,
        "tables": [table(libraries)],
        "notes": [WIRED],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(report))


def _try_all(contest: Contest) -> dict[str, Any]:
    try:
        contest.write()
    except RuntimeError as error:
        return {"version": "", "error": str(error), "outcomes": {}}
    outcomes = {}
    for name, put in FAULTS.items():
        began = time.monotonic()
        found = put(contest)
        told = {"error": found["error"].replace(f"{contest.work}/", "")}  # by no path of here
        outcomes[name] = found | told | {"seconds": round(time.monotonic() - began, 1)}
        print(contest.library, name, outcomes[name], file=sys.stderr, flush=True)
    return {"version": contest.version, "error": "", "outcomes": outcomes}


def table(libraries: dict[str, Any]) -> dict[str, Any]:
    """The outcomes, a line for each fault."""
    heads = [f"{NAMES.get(name, name)} {found['version']}" for name, found in libraries.items()]
    rows = [[fault, *(_cell(found, fault) for found in libraries.values())] for fault in FAULTS]
    title = "Right samples of 240, and how it ended"
    return {"title": title, "columns": ["fault", *heads], "rows": rows}


def _cell(found: dict[str, Any], fault: str) -> str:
    if found["error"]:
        return f"could not be set up: {found['error']}"
    outcome = found["outcomes"][fault]
    if reason := outcome.get("not_applicable"):
        return str(reason)
    counts = [
        f"{outcome[name]} {name}"
        for name in ("right", "wrong", "doubled", "missing")
        if outcome.get(name) or (name == "right" and name in outcome)
    ]
    error = outcome["error"].splitlines()[0].replace("|", "/")[:110] if outcome["error"] else ""
    injected = [f"{outcome['injected']} faults"] if outcome.get("injected") else []
    return ", ".join([*counts, *injected, *([f"`{error}`"] if error else ["no error"])])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/faults"))
    parser.add_argument("--venvs", type=Path, default=Path("build/venvs"))
    parser.add_argument("--out", type=Path, default=Path("build/faults.json"))
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES, choices=LIBRARIES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
