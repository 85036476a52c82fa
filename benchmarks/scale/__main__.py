"""How cost grows: samples, shards, ranks, threads, and shard sizes on links.

    python benchmarks/scale --out benchmarks/results/scale.json      about ten minutes
    python benchmarks/scale --quick                                  a few of each, under a minute

Manifests are made, their shards are links to one; ranks are walked in this process; threads and
links beyond this machine are a model with measured parts, and are called so.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))  # the other benchmarks

import annotations
import growth
import links
import ranks
import threads
from machine import describe


def main() -> None:
    args = _arguments()
    decoding = threads.measure(args.work / "clips", rounds=args.rounds, quick=args.quick)
    report: dict[str, Any] = {
        "machine": describe("fsspec", "numpy", "miniaudio", "symusic", "torch"),
        "command": f"python benchmarks/scale --rounds {args.rounds}" + " --quick" * args.quick,
        "growth": growth.measure(args.work / "growth", rounds=args.rounds, quick=args.quick),
        "annotations": annotations.measure(args.work / "annotations", quick=args.quick),
        "ranks": ranks.measure(args.work / "ranks", quick=args.quick),
        "threads": decoding,
        "links": links.measure(
            args.work / "links",
            rounds=args.rounds,
            quick=args.quick,
            clip_s=decoding["FLAC"]["decode_us"]["median"] / 1e6,
        ),
    }
    report |= {"by_round": _by_round(report, args.rounds)}
    report["ratios"] = {name: _median(values) for name, values in report["by_round"].items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    for name, ratio in report["ratios"].items():
        print(f"{name}: {ratio:.3g}")


def _by_round(report: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """The ratios that say whether growth is paid for, round by round."""
    first, last = report["growth"]["by samples"][0], report["growth"]["by samples"][-1]
    times = f"{last['samples']:,} / {first['samples']:,} samples"
    flac = report["threads"]["FLAC"]

    def ratio(above: list[float], below: list[float]) -> list[float]:
        return [round(a / b, 4) for a, b in zip(above, below, strict=True)]

    def row(name: str, of: dict[str, Any] = last) -> list[float]:
        found: list[float] = of[name]["all"]
        return found

    return {
        f"start, {times}": ratio(row("start_s"), row("start_s", first)),
        f"plan of a batch, {times}": ratio(row("plan_us"), row("plan_us", first)),
        f"resume / start, {last['samples']:,} samples": ratio(row("resume_s"), row("start_s")),
        f"first parse / json.loads, {last['shards']:,} shards": ratio(
            row("parse_s"), row("json_s")
        ),
        "FLAC: pipeline in one thread / bare decoding": ratio(
            flac["pipeline_us"]["all"], flac["decode_us"]["all"]
        ),
        "fetched by all nodes / dataset, at most": [
            max(world["fetched by all"] for world in report["ranks"] if _keeps_nodes(world))
        ]
        * rounds,
    }


def _keeps_nodes(world: dict[str, Any]) -> bool:
    return bool(world["nodes"] == world["began with nodes"])


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/scale", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--work", type=Path, default=Path("build/scale"))
    parser.add_argument("--out", type=Path, default=Path("build/scale.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
