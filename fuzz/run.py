"""Fuzz what reads anybody's bytes, with atheris: ``python fuzz/run.py --seconds 300 tar midi``.

Each target runs in processes of its own, which a crash of a native decoder ends and nothing else.
Inputs that were found to lead somewhere new are kept under build/fuzz/TARGET, and those that broke
a target as build/fuzz/TARGET-crash-*: mend what they show, and put them into fuzz/cases/TARGET.
With --out benchmarks/results/fuzz.json the counts go into docs/guarantees.md.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks"))

from machine import describe  # noqa: E402, lies there

WORK = Path("build/fuzz")
LONGEST = 1 << 14  # bytes of an input
SLOWEST_S = 20
MEMORY_MB = 2500
# of one process: atheris keeps some 200 bytes an input, where the same inputs without it leave none
ROUND_S = 100
WORDS = ("manifest", "line", "sample", "state")  # targets that read JSON
_RUN = "--run"  # this script's word to itself: fuzz one target in this process
TARGETS = ("tar", "index", "manifest", "line", "midi", "audio", "npy", "sample", "state")


def main() -> int:
    if sys.argv[1:2] == [_RUN]:
        return _fuzz(sys.argv[2], sys.argv[3:])
    args = _arguments()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    names = args.targets or TARGETS
    with ThreadPoolExecutor(args.jobs) as jobs:
        found = jobs.map(lambda name: _fuzzed(name, args.seconds), names)
        results = dict(zip(names, found, strict=True))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": describe("atheris", "numpy", "miniaudio", "symusic"),
        "command": " ".join(
            [f"python fuzz/run.py --seconds {args.seconds} --jobs {args.jobs}", *args.targets]
        ),
        "measure": "One run",
        "targets": results,
        "tables": [_table(results)],
        "notes": [],
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return 1 if any(result["broke"] or result["status"] for result in results.values()) else 0


def _fuzzed(name: str, seconds: int) -> dict[str, Any]:
    """Fuzz one target for a while; how many inputs were tried, and which ones broke it."""
    (WORK / name).mkdir(parents=True, exist_ok=True)
    before = set(WORK.glob(f"{name}-*"))
    began, inputs, status = time.monotonic(), 0, 0
    while not status and (left := seconds - round(time.monotonic() - began)) > 0:
        status, tried = _in_a_process(name, min(left, ROUND_S))
        inputs += tried
    return {
        "seconds": round(time.monotonic() - began),
        "inputs": inputs,
        "status": status,
        "broke": sorted(str(path) for path in set(WORK.glob(f"{name}-*")) - before),
    }


def _in_a_process(name: str, seconds: int) -> tuple[int, int]:
    """One round: its exit status, and how many inputs it tried."""
    options = (
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-timeout={SLOWEST_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={WORK}/{name}-",
        "-print_final_stats=1",
    )
    if name in WORDS:
        options = (*options, f"-dict={HERE / 'json.dict'}")
    cases = HERE / "cases" / name
    folders = [str(WORK / name), *([str(cases)] if cases.is_dir() else [])]
    run = subprocess.run(
        [sys.executable, __file__, _RUN, name, *options, *folders],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    (WORK / f"{name}.log").write_text(run.stdout)
    tried = [text.split()[-1] for text in run.stdout.splitlines() if "number_of_executed" in text]
    return run.returncode, int(tried[-1]) if tried else 0


def _table(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rows = [
        [name, f"{one['inputs']:,}", str(one["seconds"]), str(len(one["broke"]))]
        for name, one in results.items()
    ]
    return {
        "title": "Inputs tried",
        "columns": ["target", "inputs", "seconds", "that broke it"],
        "rows": rows,
    }


def _fuzz(name: str, options: list[str]) -> int:
    """Run one target until its time is up; never returns."""
    import atheris  # only here: it is no requirement of anything else

    with atheris.instrument_imports(include=["shards", "loader"]):
        import seeds
        import targets
    corpus = next(Path(option) for option in options if not option.startswith("-"))
    for number, data in enumerate(seeds.seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    atheris.Setup([name, *options], targets.TARGETS[name])
    atheris.Fuzz()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time")
    parser.add_argument("--out", type=Path, default=WORK / "fuzz.json")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)[0]!r}; there are {', '.join(TARGETS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
