"""How long a plan takes, and how much memory: annotations read and checked, shards planned.

    python benchmarks/planning.py --out build/planning.json

A million lines over twenty recordings, so that lines are measured and not the disk; every round is
a process of its own, imports apart.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
from machine import describe

from packer.preview import plan
from shards.schema import Rules

RECORDINGS, RECORDING_S, SAMPLE_RATE = 20, 600, 8000
CLIP_S = 10.0


def main() -> None:
    args = _arguments()
    path = args.work / f"annotations-{args.lines}.jsonl"
    if args.measure:
        print(json.dumps(_measure(path)))
        return
    _prepare(path, args.lines)
    rounds = [_in_a_process(args) for _ in range(args.rounds)]
    report = {
        "machine": describe("numpy", "soundfile"),
        "command": f"python benchmarks/planning.py --lines {args.lines} --rounds {args.rounds}",
        "lines": args.lines,
        "figures": {f"{args.lines:,} lines": _medians(rounds)},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["figures"], indent=1))


def _medians(rounds: list[dict[str, float]]) -> dict[str, dict[str, object]]:
    columns = {unit: [one[unit] for one in rounds] for unit in rounds[0]}
    return {
        unit: {"median": round(statistics.median(column), 2), "all": column}
        for unit, column in columns.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/planning"))
    parser.add_argument("--out", type=Path, default=Path("build/planning.json"))
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="once, in this process")
    return parser.parse_args()


def _measure(path: Path) -> dict[str, float]:
    """Seconds, and megabytes beyond what the imports take."""
    before, began = _memory("VmRSS"), time.perf_counter()
    planned = plan(path, Rules(path.parent.absolute()), progress=False)
    seconds, peak = time.perf_counter() - began, _memory("VmHWM") - before
    assert not planned.rejected, planned.rejected[0]
    return {"s": seconds, "MB more at the peak": peak / 1e6}


def _memory(kind: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(kind))


def _in_a_process(args: argparse.Namespace) -> dict[str, float]:
    size = ["--work", str(args.work), "--lines", str(args.lines)]
    command = [sys.executable, __file__, *size, "--measure"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _prepare(path: Path, lines: int) -> None:
    """Write recordings, and lines that cut them at many places, unless they are there."""
    if path.exists():
        return
    (path.parent / "audio").mkdir(parents=True, exist_ok=True)
    times = np.arange(RECORDING_S * SAMPLE_RATE) / SAMPLE_RATE
    for number in range(RECORDINGS):
        sound = 0.1 * np.sin(2 * np.pi * 110 * (number + 1) * times)
        soundfile.write(path.parent / "audio" / f"{number}.flac", sound, SAMPLE_RATE)
    hop_s = (RECORDING_S - CLIP_S) / (lines // RECORDINGS)
    if hop_s < 0.001:
        raise ValueError(f"{lines} lines are too many: their starts would be less than 1 ms apart")
    with path.open("w") as file:
        for line in range(lines):
            start_s = round(line // RECORDINGS * hop_s, 3)
            file.write(json.dumps(_line(line, start_s)) + "\n")


def _line(number: int, start_s: float) -> dict[str, object]:
    names = ("accuracy", "tempo", "dynamics", "pedal")
    return {
        "audio_path": f"audio/{number % RECORDINGS}.flac",
        "start_time": start_s,
        "end_time": round(start_s + CLIP_S, 3),
        "piece": f"piece {number % 997}",
        "labels": {name: number % (place + 7) / 7 for place, name in enumerate(names)},
    }


if __name__ == "__main__":
    main()
