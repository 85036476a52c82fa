"""Writes the figures of README.md out of the recorded results: they are never typed.

python benchmarks/figures.py            after benchmarks/streaming.py --out benchmarks/results/...
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "streaming.json"
_BEGIN = "<!-- figures: benchmarks/results/streaming.json -->"
_END = "<!-- end of figures -->"


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(with_figures(readme.read_text(), json.loads(RESULTS.read_text())))


def with_figures(text: str, report: dict[str, Any]) -> str:
    """The text with the table between its markers."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table(report)}\n{_END}{after}"


def table(report: dict[str, Any]) -> str:
    """Rates of all settings, the ratios of the best, and what it was measured on."""
    rates, ratios, machine = report["samples_per_s"], report["ratios"], report["machine"]
    lines = ["| ten-second clips with MIDI and labels | samples/s |", "| --- | --- |"]
    lines += [f"| {name} | {rate['median']:.0f} |" for name, rate in rates.items()]
    compared = ", ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"Best settings compared: {compared}. Medians of rounds run turn by turn with "
            f"`{report['command']}` on {machine['cores']} cores ({machine['processor']}), "
            f"{machine['date']}, commit {machine['commit']}; {versions}.",
        ]
    )


if __name__ == "__main__":
    main()
