"""Draws the pictures of docs/scale.md."""

from pathlib import Path
from typing import Any

import picture
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Report = dict[str, Any]
_SIZE = (4.6, 3.0)
_BLUES = ("#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#084594")


def draw_growth(report: Report, path: Path) -> None:
    """Seconds of a start and of a plan, by samples."""
    rows = report["growth"]["by samples"]
    samples = [row["samples"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * _SIZE[0], _SIZE[1]), layout="tight")
    for name, label in (
        ("parse_s", "first start of all: the manifest is parsed"),
        ("start_s", "start: first batch"),
        ("resume_s", "resume at 90% of an epoch: first batch"),
    ):
        left.plot(samples, [row[name]["median"] for row in rows], marker="o", label=label)
    for name, label in (("plan_us", "shuffle=1000"), ("full_plan_us", 'shuffle="full"')):
        right.plot(samples, [row[name]["median"] for row in rows], marker="o", label=label)
    left.set(yscale="log", ylabel="s")
    right.set(ylim=(0, None), ylabel="µs to plan a batch of 16")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="samples, 1,000 a shard")
        _finish(axes)
    picture.save(figure, path, source=report)


def draw_threads(report: Report, path: Path) -> None:
    """Samples a second by threads: the model as lines, what was measured as dots."""
    figure, panels = plt.subplots(1, 2, figsize=(2 * _SIZE[0], _SIZE[1]), layout="tight")
    for axes, (kind, found) in zip(panels, report["threads"].items(), strict=True):
        model = {int(threads): rate for threads, rate in found["model"].items()}
        axes.plot(list(model), list(model.values()), "--", color=_BLUES[1], label="model")
        measured = {int(threads): rate["median"] for threads, rate in found["measured"].items()}
        axes.plot(list(measured), list(measured.values()), "o", color=_BLUES[4], label="measured")
        axes.set(title=kind, xlabel="threads, on as many cores", ylabel="samples/s", ylim=(0, None))
        axes.set_xticks(list(model))
        _finish(axes)
    picture.save(figure, path, source=report)


def draw_links(report: Report, path: Path) -> None:
    """First batch and efficiency by shard size, a line for each link; latency of Drive."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * _SIZE[0], _SIZE[1]), layout="tight")
    rows = [row for row in report["links"]["links"] if row["latency"] == "Drive"]
    for color, speed in zip(_BLUES, sorted({row["link_MB_per_s"] for row in rows}), strict=True):
        own = [row for row in rows if row["link_MB_per_s"] == speed]
        sizes = [row["shard_MB"] for row in own]
        for axes, name in ((left, "first_batch_s"), (right, "efficiency")):
            values = [row[name] for row in own]
            axes.plot(sizes, values, marker="o", color=color, label=f"{speed} MB/s")
    left.set(yscale="log", ylabel="s to the first batch")
    right.set(ylim=(0, 1.05), ylabel="share of the link that an epoch uses")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="MB a shard (model, 100 ms a request)")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        _finish(axes)
    picture.save(figure, path, source=report)


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
