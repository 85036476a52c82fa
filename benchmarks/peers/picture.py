"""The report as a picture: samples a second, by who decodes."""

from pathlib import Path
from typing import Any

from benchmarks.peers.report import OURSELVES, TITLES


def draw(found: dict[str, Any], path: Path) -> None:
    """Write a PNG: a panel for each table, a bar for each peer, limits in grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(13, 9), constrained_layout=True)
    for panel, ((kind, decoders), title) in zip(panels.flat, TITLES.items(), strict=True):
        rows = [r for r in found["rows"] if (r["kind"], r["decoders"]) == (kind, decoders)]
        rows = sorted((r for r in rows if "error" not in r), key=lambda r: r["samples_per_s"])
        names = [row["peer"] for row in rows]
        bars = panel.barh(names, [r["samples_per_s"] for r in rows], color=list(map(_color, rows)))
        panel.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        if rows and rows[-1]["samples_per_s"] > 20 * rows[0]["samples_per_s"]:
            panel.set_xscale("log")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("samples a second, ten seconds each")
        panel.tick_params(axis="y", labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    machine = found["machine"]
    told = f"{machine['cores']} cores, {machine['processor']}, {machine['date']}"
    figure.suptitle(f"Batches of {found['batch']} clips with tokens and labels; {told}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _color(row: dict[str, Any]) -> str:
    if row["limit"]:
        return "0.75"
    return "tab:orange" if row["peer"] == OURSELVES else "tab:blue"
