"""Writes the figures of README.md and docs/benchmarks.md out of the recorded results.

python benchmarks/figures.py            after benchmarks/NAME.py --out benchmarks/results/NAME.json

They are never typed.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
TITLES = {
    "streaming": "Streaming, against webdataset and bare loops",
    "mount": "From a slow mount",
    "windows": "Windows out of five-minute recordings",
    "startup": "Starting",
    "endurance": "Memory over many epochs",
    "packing": "Packing",
    "packing_mount": "Packing from a slow mount",
    "planning": "Planning a million samples",
}
_BEGIN = "<!-- figures: benchmarks/results/streaming.json -->"
_END = "<!-- end of figures -->"


def main() -> None:
    found = reports()
    README.write_text(with_figures(README.read_text(), found["streaming"]))
    PAGE.write_text(page(found))


def reports() -> dict[str, dict[str, Any]]:
    """What was recorded, by the name of the benchmark."""
    paths = {name: RESULTS / f"{name}.json" for name in TITLES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def with_figures(text: str, report: dict[str, Any]) -> str:
    """The text with the table of rates between its markers."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    pairs = ", ".join(f"{name}: {ratio:.2f}" for name, ratio in report["ratios"].items())
    compared = f"Ten-second clips with MIDI and labels. Best settings compared: {pairs}."
    return f"{before}{_BEGIN}\n{rates(report)}\n\n{compared} {told(report)}\n{_END}{after}"


def page(found: dict[str, dict[str, Any]]) -> str:
    """All that was recorded, each with its command, machine and commit."""
    parts = [
        "# Benchmarks",
        "Written by `python benchmarks/figures.py` out of `benchmarks/results/`. Rates of one "
        "machine say little; ratios were measured side by side, turn by turn.",
    ]
    for name, report in found.items():
        parts.append(f"## {TITLES[name]}")
        if "samples_per_s" in report:
            parts.append(rates(report))
        if "figures" in report:
            parts.append(figures(report))
        if "ratios" in report:
            parts.append(ratios(report))
        parts.append(told(report))
    return "\n\n".join(parts) + "\n"


def rates(report: dict[str, Any]) -> str:
    """Samples a second of all that was measured."""
    lines = ["| what | samples/s |", "| --- | --- |"]
    found = report["samples_per_s"].items()
    return "\n".join([*lines, *(f"| {name} | {rate['median']:.0f} |" for name, rate in found)])


def figures(report: dict[str, Any]) -> str:
    """Medians with their units."""
    lines = ["| what | median |", "| --- | --- |"]
    for name, units in report["figures"].items():
        medians = ", ".join(f"{figure['median']:.3g} {unit}" for unit, figure in units.items())
        lines.append(f"| {name} | {medians} |")
    return "\n".join(lines)


def ratios(report: dict[str, Any]) -> str:
    lines = ["| ratio | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {r:.3g} |" for name, r in report["ratios"].items())])


def told(report: dict[str, Any]) -> str:
    """How and on what it was measured."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Medians of `{report['command']}` on {machine['cores']} cores "
        f"({machine['processor']}), {machine['date']}, commit {machine['commit']}; {versions}."
    )


if __name__ == "__main__":
    main()
