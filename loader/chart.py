"""A benchmark's report as a picture."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from loader.bench import Cache, Rate, Report, Task, worker_counts
from loader.disk import write_whole
from loader.stats import STAGES

FORMATS = (".png", ".svg", ".pdf")

_INK, _FAINT = "#22262b", "#8a929c"
_LINES = {"raw": "#0b6e99", "decoded": "#d1495b"}
_STAGES = ("#5c677d", "#a8b5c4", "#4c956c", "#e3b23c", "#9a6fb0")
_STYLE: Any = {
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
}


def require_drawing(path: Path) -> None:
    """Tell, before anything is measured, whether a picture can be made.

    Raises:
        ValueError: if matplotlib is missing, the format is another, or the file cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{path}: drawing needs matplotlib: pip install matplotlib")
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a picture ends in one of {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no such folder: mkdir -p {path.parent}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file in it")
    if not os.access(path.absolute().parent, os.W_OK):
        raise ValueError(f"{path}: its folder cannot be written: name a file in another one")


def draw(report: Report, path: Path) -> None:
    """Draw rates by decoding threads, a line a cache, over the shares of the stages."""
    import matplotlib  # optional, and heavy
    from matplotlib.figure import Figure

    by_cache = {
        cache: [rate for rate in report.rates if rate.cache == cache]
        for cache in dict.fromkeys(rate.cache for rate in report.rates)
    }
    target = BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 6.6), layout="constrained")
        grid = figure.add_gridspec(2, len(by_cache), height_ratios=(3, 2))
        _draw_rates(figure.add_subplot(grid[0, :]), report, by_cache)
        below = [figure.add_subplot(grid[1, column]) for column in range(len(by_cache))]
        for axes, (cache, rates) in zip(below, by_cache.items(), strict=True):
            _draw_stages(axes, cache, rates)
        below[0].set_ylabel("% of the threads' time")
        handles, names = below[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
        figure.savefig(target, format=path.suffix[1:], dpi=160)
    write_whole(path, target.getvalue())


def _draw_rates(axes: Any, report: Report, by_cache: Mapping[Cache, Sequence[Rate]]) -> None:
    """A line a cache over the counts of threads; what "auto" gives stands by itself."""
    for cache, rates in by_cache.items():
        color, values = _LINES[cache], [rate.samples_per_s for rate in rates]
        places = range(len(rates))
        axes.plot(places[:-1], values[:-1], "o-", color=color, linewidth=2, label=f"cache {cache}")
        axes.plot(places[-1:], values[-1:], "o", color=color, markerfacecolor="white", mew=2)
        for place, rate in zip(places, rates, strict=True):
            _label_point(axes, place, rate, color, best=rate == report.best)
    if (first := report.first_pass) is not None:
        text = f"first pass, {first.fetched_bytes_per_s / 1e6:.0f} MB/s fetched"
        axes.axhline(
            first.samples_per_s, color=_FAINT, linestyle=(0, (4, 3)), linewidth=1.2, label=text
        )
    counts = [str(count) for count in worker_counts(report.cores)]
    axes.set_xticks(range(len(counts)), counts)
    axes.set_ylim(0, 1.12 * max(rate.samples_per_s for rate in report.rates))
    axes.set(xlabel="decoding threads", ylabel="samples/s")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color=_FAINT, alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_title(_title(report.task, report.cores), loc="left", pad=34, weight="bold")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3, frameon=False, borderaxespad=0)


def _label_point(axes: Any, place: int, rate: Rate, color: str, *, best: bool) -> None:
    axes.annotate(
        f"{rate.samples_per_s:,.0f}",
        (place, rate.samples_per_s),
        xytext=(-4, 8),
        textcoords="offset points",
        ha="center",
        color=color,
        weight="bold" if best else "normal",
        fontsize=11 if best else 8.5,
    )


def _draw_stages(axes: Any, cache: Cache, rates: Sequence[Rate]) -> None:
    """A bar a setting: where the time of its threads goes."""
    labels, bottom = [str(rate.workers) for rate in rates], [0.0] * len(rates)
    for stage, color in zip(STAGES, _STAGES, strict=True):
        shares = [100 * rate.shares.get(stage, 0.0) for rate in rates]
        axes.bar(labels, shares, bottom=bottom, color=color, label=stage, width=0.7)
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    axes.set(ylim=(0, 100), xlabel="decoding threads")
    axes.set_title(f"cache {cache}", loc="left", color=_LINES[cache], fontsize=10)


def _title(task: Task, cores: int) -> str:
    """The end of the URL, and what was measured."""
    name = "/".join(task.url.rstrip("/").split("/")[-2:])
    step = f", steps of {task.step_ms:g} ms" if task.step_ms else ""
    return f"{name}: batches of {task.batch_size}{step}, on {cores} cores"
