"""Draws docs/headline.svg: samples a second, beside what a user would take instead."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

OURS, THEIRS, LIMIT = "#2f6690", "#b8b8b8", "#dddddd"
PANELS = (("FLAC: ", "FLAC"), ("decoded, float32: ", "decoded, float32"))
SUBJECTS = (("this loader", OURS), ("webdataset", THEIRS), ("bare loop", LIMIT))


def draw(report: dict[str, Any], path: Path) -> None:
    """Two panels of bars, each subject with its best setting."""
    medians = {name: rate["median"] for name, rate in report["samples_per_s"].items()}
    figure, panels = plt.subplots(1, 2, figsize=(8, 1.9), layout="constrained")
    for axes, (start, title) in zip(panels, PANELS, strict=True):
        best = [
            max(rate for name, rate in medians.items() if name.startswith(start + subject))
            for subject, _ in SUBJECTS
        ]
        _bars(axes, [name for name, _ in SUBJECTS], best, [color for _, color in SUBJECTS])
        axes.set_title(f"{title}, samples/s", fontsize=10)
    save(figure, path, source=report)


def _bars(axes: Axes, names: list[str], rates: list[float], colors: list[str]) -> None:
    bars = axes.barh(names, rates, color=colors)
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3, fontsize=9)
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
