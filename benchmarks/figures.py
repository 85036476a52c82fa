"""Writes the figures of README.md and docs/ out of the recorded results.

python benchmarks/figures.py            after benchmarks/NAME.py --out benchmarks/results/NAME.json

They are never typed: what stands between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``
is one of BLOCKS, within a line between ``<!-- figure: NAME -->`` and ``<!-- end -->`` one of
``promises.CELLS``, docs/benchmarks.md is all that was recorded, and pictures are drawn anew.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import picture
import promises
import scale_picture
import scale_tables
import tables

Report = dict[str, Any]
Found = dict[str, Report]

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WITH_BLOCKS = ("README.md", "docs/colab.md", "docs/scale.md", "docs/guarantees.md")
PAGE = "docs/benchmarks.md"
TITLES = {
    "peers": "Beside everything that a user would pick instead",
    "drive": "From a mounted Drive, by every way",
    "streaming": "Streaming, against webdataset and bare loops",
    "mount": "From a slow mount",
    "windows": "Windows out of five-minute recordings",
    "startup": "Starting",
    "endurance": "Memory over many epochs",
    "packing": "Packing",
    "packing_mount": "Packing from a slow mount",
    "planning": "Planning a million samples",
    "scale": "As the work grows",
    "augment": "Augmentation, against audiomentations",
    "percepiano": "PercePiano by four folds",
    "experiment_10k": "The 10k experiment at its real size",
    "waiting": "Waiting for data while training",
    "faults": "The same faults put to other libraries",
    "kills": "Kills while training",
    "cache_storm": "One cache, processes that are killed",
    "faulty_mount": "Packing onto a mount that fails",
    "soak": "Hours of streaming with faults",
    "fuzz": "Fuzzing",
    "guards": "Guards taken out",
}
# What the README says: a sentence, the benchmark and its ratio.
HEADLINES = (
    ("FLAC clips, against webdataset", "streaming", "FLAC: this loader / webdataset"),
    (
        "FLAC clips, against a bare decoding loop of as many processes",
        "streaming",
        "FLAC: this loader / bare loop",
    ),
    ("decoded clips, against webdataset", "streaming", "decoded: this loader / webdataset"),
    ("decoded clips, against FLAC", "streaming", "decoded / FLAC"),
    (
        "three experiments of five epochs from a mounted Drive, once packed, against file by file",
        "drive",
        "all experiments: file by file / this project, decoded",
    ),
    (
        "the same, against copying the files first",
        "drive",
        "all experiments: files copied first / this project, decoded",
    ),
    ("first epoch from a slow mount, against its link", "mount", "link / first epoch, streamed"),
    ("ten-second windows, against decoding whole recordings", "windows", "windows / whole"),
)
_BLOCK = re.compile(r"(<!-- figures: (.+?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_CELL = re.compile(r"(<!-- figure: (\w+)(?:: (.+?))? -->).*?(<!-- end -->)")


def main() -> None:
    found = reports()
    for name, text in documents(found).items():
        (ROOT / name).write_text(text)
    for name, (sources, draw) in PICTURES.items():
        draw(first(sources, found), ROOT / name)
    for drawn in RESULTS.glob("*.png"):  # by the benchmark itself
        shutil.copy(drawn, ROOT / "docs" / drawn.name)


def reports() -> Found:
    """What was recorded, by the name of the benchmark."""
    paths = {name: RESULTS / f"{name}.json" for name in TITLES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def first(sources: tuple[str, ...], found: Found) -> Report:
    """The first of some benchmarks that was recorded."""
    return next(found[name] for name in sources if name in found)


def documents(found: Found) -> dict[str, str]:
    """The documents with figures as they should be, by their paths in the repository."""
    filled = {name: fill((ROOT / name).read_text(), found) for name in WITH_BLOCKS}
    return filled | {PAGE: page(found)}


def fill(text: str, found: Found) -> str:
    """A text with its blocks of figures, and those within its lines, written anew."""
    text = _BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]](found)}\n{block[3]}", text)
    return _CELL.sub(lambda c: f"{c[1]}{promises.CELLS[c[2]](found, c[3] or '')}{c[4]}", text)


def headlines(found: Found) -> str:
    """A line for each peer, then the ratios that say most, with their benchmarks and commits."""
    rows = [(text, name, found[name]["ratios"][key]) for text, name, key in HEADLINES]
    lines = ["| what | times as fast | from |", "| --- | --- | --- |"]
    lines += [f"| {text} | {ratio:.3g} | {_source(name, found)} |" for text, name, ratio in rows]
    machines = dict.fromkeys(_processor(found[name]) for _, name, _ in rows)
    told = (
        "Ten-second clips with MIDI and labels, but for the windows, cut out of recordings of five "
        f"minutes; webdataset decodes with soundfile; {'; '.join(machines)}."
    )
    beside = [peers(found)] if "peers" in found else []
    return "\n\n".join([*beside, "\n".join(lines), told])


def page(found: Found) -> str:
    """All that was recorded, each with its command, machine and commit."""
    parts = [
        "# Benchmarks",
        "Written by `python benchmarks/figures.py` out of `benchmarks/results/`. Rates of one "
        "machine say little; ratios were measured side by side, turn by turn.",
        "Beside peers: `python -m benchmarks.peers`; by every way from a mounted Drive: "
        "`python -m benchmarks.drive`; as the work grows: `python benchmarks/scale`; what moved "
        "since the last record: `make bench`.",
    ]
    for name, report in found.items():
        parts.append(f"## {TITLES[name]}")
        if (RESULTS / f"{name}.png").exists():
            parts.append(f"![{TITLES[name]}]({name}.png)")
        if "tables" in report:
            parts.append(tables.markdown(report))
        if "samples_per_s" in report:
            parts.append(rates(report))
        if "figures" in report:
            parts.append(figures(report))
        if "ratios" in report:
            parts.append(ratios(report))
        parts.append(told(report))
    return "\n\n".join(parts) + "\n"


def rates(report: Report) -> str:
    """Samples a second of all that was measured."""
    lines = ["| what | samples/s |", "| --- | --- |"]
    found = report["samples_per_s"].items()
    return "\n".join([*lines, *(f"| {name} | {rate['median']:.0f} |" for name, rate in found)])


def figures(report: Report) -> str:
    """Medians with their units."""
    lines = ["| what | median |", "| --- | --- |"]
    for name, units in report["figures"].items():
        medians = ", ".join(f"{figure['median']:.3g} {unit}" for unit, figure in units.items())
        lines.append(f"| {name} | {medians} |")
    return "\n".join(lines)


def ratios(report: Report) -> str:
    lines = ["| ratio | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {r:.3g} |" for name, r in report["ratios"].items())])


def told(report: Report) -> str:
    """How and on what it was measured."""
    versions = ", ".join(f"{name} {v}" for name, v in report["machine"]["versions"].items())
    measure = report.get("measure", "Medians")
    return f"{measure} of `{report['command']}` on {_machine(report)}; {versions}."


def _machine(report: Report) -> str:
    return (
        f"{_processor(report)}, {report['machine']['date']}, commit {report['machine']['commit']}"
    )


def _processor(report: Report) -> str:
    return f"{report['machine']['cores']} cores ({report['machine']['processor']})"


def _source(name: str, found: Found) -> str:
    """Where a figure is from, with a link to the page of all figures."""
    anchor = re.sub(r"[^a-z0-9 -]", "", TITLES[name].lower()).replace(" ", "-")
    return f"[{name}]({PAGE}#{anchor}), {found[name]['machine']['commit']}"


def peers(found: Found) -> str:
    """A line for each peer, with the columns that say most."""
    headline = found["peers"]["headline"]
    return f"{tables.grid(headline['columns'], headline['rows'])}\n\n{told(found['peers'])}"


BLOCKS: dict[str, Callable[[Found], str]] = {
    "headlines": headlines,
    "drive": lambda found: f"{tables.markdown(found['drive'])}\n\n{told(found['drive'])}",
    "scale: samples": lambda found: scale_tables.growth(found["scale"], "by samples"),
    "scale: shards": lambda found: scale_tables.growth(found["scale"], "by shards"),
    "scale: annotations": lambda found: scale_tables.annotations(found["scale"]),
    "scale: ranks": lambda found: scale_tables.ranks(found["scale"]),
    "scale: threads": lambda found: scale_tables.threads(found["scale"]),
    "scale: links, Drive": lambda found: scale_tables.links(found["scale"], "Drive"),
    "scale: links, store": lambda found: scale_tables.links(found["scale"], "object store"),
    "scale: costs": lambda found: scale_tables.link_costs(found["scale"]),
    "scale: told": lambda found: told(found["scale"]),
    "guards": promises.guards,
    "fuzzing": promises.fuzz,
    "endurance": lambda found: f"{promises.endurance(found)}\n\n{told(found['soak'])}",
}
# What a picture shows, the first of them that was recorded, and who draws it.
PICTURES: dict[str, tuple[tuple[str, ...], Callable[[Report, Path], None]]] = {
    "docs/headline.svg": (("peers", "streaming"), picture.draw),
    "docs/scale-growth.svg": (("scale",), scale_picture.draw_growth),
    "docs/scale-threads.svg": (("scale",), scale_picture.draw_threads),
    "docs/scale-links.svg": (("scale",), scale_picture.draw_links),
}

if __name__ == "__main__":
    main()
