"""Draws docs/headline.svg: samples a second, beside what a user would take instead."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Bar = tuple[str, float, str]  # name, samples a second, colour

OURS, THEIRS, LIMIT = "#2f6690", "#b8b8b8", "#dddddd"
# Against webdataset and bare loops: how the names of a kind begin, and its title.
KINDS = (("FLAC: ", "FLAC"), ("decoded, float32: ", "decoded, float32"))
SUBJECTS = (("this loader", OURS), ("webdataset", THEIRS), ("bare loop", LIMIT))
# Beside all peers: clips and decoders of a table, and its title.
TABLES = (
    ("flac", "users", "FLAC, decoded as its users do"),
    ("decoded", "users", "decoded, in its own format"),
)
PROJECT = "this project"


def draw(report: dict[str, Any], path: Path) -> None:
    """Two panels of bars, each subject with its best setting."""
    panels = _beside_peers(report) if "rows" in report else _beside_webdataset(report)
    most = max(len(bars) for _, bars in panels)
    size = (8.5, 0.7 + 0.3 * most)
    figure, places = plt.subplots(1, len(panels), figsize=size, layout="constrained")
    for axes, (title, bars) in zip(places, panels, strict=True):
        _bars(axes, bars)
        axes.set_title(f"{title}, samples/s", fontsize=10)
    save(figure, path, source=report)


def _beside_peers(report: dict[str, Any]) -> list[tuple[str, list[Bar]]]:
    panels = []
    for kind, decoders, title in TABLES:
        rows = [row for row in report["rows"] if (row["kind"], row["decoders"]) == (kind, decoders)]
        rows = [row for row in rows if "error" not in row]
        rows.sort(key=lambda row: (row["limit"], -row["samples_per_s"]))
        panels.append((title, [(r["peer"], r["samples_per_s"], _color(r)) for r in rows]))
    return panels


def _color(row: dict[str, Any]) -> str:
    if row["limit"]:
        return LIMIT
    return OURS if row["peer"] == PROJECT else THEIRS


def _beside_webdataset(report: dict[str, Any]) -> list[tuple[str, list[Bar]]]:
    medians = {name: rate["median"] for name, rate in report["samples_per_s"].items()}
    panels = []
    for start, title in KINDS:
        bars = []
        for subject, color in SUBJECTS:
            rates = [rate for name, rate in medians.items() if name.startswith(start + subject)]
            bars.append((subject, max(rates), color))
        panels.append((title, bars))
    return panels


def _bars(axes: Axes, bars: list[Bar]) -> None:
    names, rates, colors = zip(*bars, strict=True)
    drawn = axes.barh(names, rates, color=colors)
    axes.bar_label(drawn, [f"{rate:,.0f}" for rate in rates], padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(rates))
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False, labelsize=9)


def save(figure: Any, path: Path, *, source: object) -> None:
    """Write an SVG that says what it was drawn from, and differs only where that does."""
    with plt.rc_context({"svg.hashsalt": "clavier", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Source": stamp(source)})
    plt.close(figure)


def stamp(source: object) -> str:
    """What tells of what a picture was drawn."""
    return sha256(repr(source).encode()).hexdigest()
