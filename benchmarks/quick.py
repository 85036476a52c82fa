"""The short form of the benchmarks, compared with the last recorded one: what moved.

    python benchmarks/quick.py             make bench: measure and compare; informs, never fails
    python benchmarks/quick.py --record    make bench-record: measure and keep for comparisons

Only ratios are compared, each of things measured side by side in one run, so that another machine
may compare, too. What spread by more than its median is not recorded: to such a record everything
compares. A ratio has moved when its median left the spread of the rounds, both of this run
and of the recorded one; what changed by less than a few hundredths is noise in any case.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe

HERE = Path(__file__).parent
RECORD = HERE / "results" / "quick.json"
LEAST = 0.05  # changes below this share are not told
SCRIPTS = {"streaming": HERE / "streaming.py", "scale": HERE / "scale"}
Rounds = dict[str, list[float]]


def main() -> int:
    args = _arguments()
    began = time.perf_counter()
    found: Rounds = {}
    for name, script in SCRIPTS.items():
        found |= {f"{name}: {ratio}": values for ratio, values in _run(name, script, args).items()}
    report = {
        "machine": describe("webdataset", "soundfile", "miniaudio", "symusic", "torch"),
        "command": "python benchmarks/quick.py --record",
        "by_round": found,
        "ratios": {name: statistics.median(values) for name, values in found.items()},
    }
    print(f"\n{time.perf_counter() - began:.0f} s")
    if args.record:
        if noisy := too_noisy(found):
            print(f"not recorded, for these spread by more than their medians: {', '.join(noisy)}")
            return 1
        RECORD.write_text(json.dumps(report, indent=1) + "\n")
    print(f"recorded: {RECORD}" if args.record else compared(report, _recorded()))
    return 0


def too_noisy(found: Rounds) -> list[str]:
    """Ratios whose rounds are further apart than their median is from zero."""
    return [
        name
        for name, rounds in found.items()
        if max(rounds) - min(rounds) > statistics.median(rounds)
    ]


def compared(report: dict[str, Any], recorded: dict[str, Any] | None) -> str:
    """What moved against the record, as text."""
    if recorded is None:
        return "There is no record to compare with: make bench-record"
    changes = [
        Change(name, recorded["by_round"][name], values)
        for name, values in report["by_round"].items()
        if name in recorded["by_round"]
    ]
    new = sorted(report["by_round"].keys() - recorded["by_round"].keys())
    gone = sorted(recorded["by_round"].keys() - report["by_round"].keys())
    machine = recorded["machine"]
    lines = [
        f"Recorded {machine['date']}, commit {machine['commit']}, on {machine['cores']} cores "
        f"({machine['processor']}); now commit {report['machine']['commit']}, on "
        f"{report['machine']['cores']} cores ({report['machine']['processor']}).",
        *(change.line for change in changes),
        *(f"  new    {name}: {report['ratios'][name]:.3g}" for name in new),
        *(f"  gone   {name}" for name in gone),
    ]
    moved = sum(change.moved for change in changes)
    return "\n".join([*lines, f"{moved} of {len(changes)} ratios moved."])


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio then and now, round by round."""

    name: str
    before: list[float]
    now: list[float]

    @property
    def factor(self) -> float:
        return statistics.median(self.now) / statistics.median(self.before)

    @property
    def noise(self) -> float:
        """How far rounds lie from their median, at most, of either run; as a share of it."""
        return max(
            abs(value / statistics.median(rounds) - 1)
            for rounds in (self.before, self.now)
            for value in rounds
        )

    @property
    def moved(self) -> bool:
        return abs(self.factor - 1) > max(self.noise, LEAST)

    @property
    def line(self) -> str:
        medians = f"{statistics.median(self.before):.3g} -> {statistics.median(self.now):.3g}"
        word = "MOVED" if self.moved else "     "
        return f"  {word}  {self.name}: {medians} ({self.factor - 1:+.0%}, noise {self.noise:.0%})"


def _run(name: str, script: Path, args: argparse.Namespace) -> Rounds:
    """The ratios of one benchmark's short form, round by round."""
    out = args.work / f"{name}.json"
    print(f"== {name}", flush=True)
    command = [sys.executable, str(script), "--quick", "--work", str(args.work / name)]
    done = subprocess.run([*command, "--out", str(out)], check=False)
    if done.returncode:
        print(f"{name} ended with status {done.returncode}; it is left out")
        return {}
    rounds: Rounds = json.loads(out.read_text())["by_round"]
    return rounds


def _recorded() -> dict[str, Any] | None:
    if not RECORD.exists():
        return None
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/quick"))
    parser.add_argument("--record", action="store_true", help="keep the result for comparisons")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    sys.exit(main())
