"""Figures of a run, for TensorBoard and for its report; needs matplotlib."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.notes import LOWEST_PITCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 1500  # of a scatter plot, at most: more is no longer to be told apart
_INK, _GRID = "#56616c", "#8a929c"
COLOURS = ("#0b6e99", "#d1495b", "#4c956c", "#e3b23c", "#9a6fb0")
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,  # labels are anybody's text
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "clavier",
}
# What an SVG file has beside the picture.
_BESIDE = re.compile(r"<metadata>.*?</metadata>|<\?xml.*?\?>|<!DOCTYPE.*?>", re.DOTALL)

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def styled(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Have a function draw in this module's style, whatever the user's is."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        import matplotlib  # heavy, and asked for by figures alone

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return drawn


@styled
def curves(
    series: Series, *, title: str, level: tuple[str, float] | None = None, percent: bool = False
) -> "Figure":
    """Lines over epochs.

    Args:
        series: epochs and values by name; NaN is a gap.
        level: a name and a value to compare with, drawn across.
        percent: the values are shares.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = _axes((4.6, 2.7))
    for colour, (name, (epochs, values)) in zip(COLOURS, series.items(), strict=False):
        axes.plot(epochs, values, color=colour, label=name, marker="o", markersize=3)
    if level is not None:
        axes.axhline(level[1], color=_GRID, linestyle="--", linewidth=1, label=level[0])
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(0, max(0.05, 1.1 * axes.get_ylim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    shown = [epoch for epochs, _ in series.values() for epoch in epochs]
    if shown and min(shown) == max(shown):  # or the axis would be hundredths of an epoch
        axes.set_xlim(shown[0] - 0.5, shown[0] + 0.5)
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.grid(axis="y", color=_GRID, alpha=0.25, linewidth=0.6)
    if len(series) + (level is not None) > 1:
        axes.legend()
    return figure


@styled
def scatter(labels: NDArray[Any], ratings: NDArray[Any], *, title: str) -> "Figure":
    """Ratings over labels, both (N,), and where they would be equal; NaN is left out."""
    figure, axes = _axes((2.7, 2.7))
    known = np.isfinite(labels) & np.isfinite(ratings)
    labels, ratings = labels[known], ratings[known]
    chosen = np.random.default_rng(0).permutation(len(labels))[:POINTS]
    axes.scatter(labels[chosen], ratings[chosen], s=8, color=COLOURS[0], alpha=0.45, linewidths=0)
    if len(labels):
        low, high = (f(np.concatenate([labels, ratings])) for f in (np.min, np.max))
        margin = 0.05 * (high - low) or 0.5
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color=_GRID, linewidth=1, linestyle="--")
        axes.set_xlim(limits)
        axes.set_ylim(limits)
    axes.set_aspect("equal")
    axes.set_title(title, loc="left")
    axes.set_xlabel("label")
    axes.set_ylabel("rating")
    return figure


@styled
def spectrogram(mel: NDArray[Any], *, seconds: float, title: str) -> "Figure":
    """A (bands, frames) log-mel spectrogram of so many seconds."""
    figure, axes = _axes((7.0, 2.6))
    axes.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(mel)))
    axes.set_title(title, loc="left")
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel band")
    return figure


@styled
def piano_roll(tokens: NDArray[Any], *, title: str) -> "Figure":
    """(notes, 8) OctupleMIDI over bars, louder notes darker.

    Tokens say where a note begins in music and how long it lasts in seconds, so a second is drawn
    as long as it is on average.
    """
    figure, axes = _axes((7.0, 2.6))
    if len(tokens):
        beats = tokens[:, 1].max() + 1
        onsets = tokens[:, 7] + (tokens[:, 1] + tokens[:, 2] / 16) / beats
        lengths = tokens[:, 4] / 100 * max(np.ptp(onsets), 1e-3) / 10
        pitches = tokens[:, 3] + LOWEST_PITCH
        loud = 0.25 + 0.75 * tokens[:, 5] / 127
        colours = [(*_rgb(COLOURS[0]), alpha) for alpha in loud]
        axes.barh(pitches, lengths, left=onsets, height=0.9, color=colours)
    axes.set_title(title, loc="left")
    axes.set_xlabel("bar")
    axes.set_ylabel("MIDI pitch")
    return figure


@styled
def as_svg(figure: "Figure") -> str:
    """An element that may stand within a page, in its text's colour; nothing in it is loaded."""
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None})
    return _BESIDE.sub("", target.getvalue()).replace(_INK, "currentColor").strip()


def _axes(size: tuple[float, float]) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
