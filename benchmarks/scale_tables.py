"""The tables of docs/scale.md."""

from collections.abc import Iterable
from typing import Any

Report = dict[str, Any]


def growth(report: Report, part: str) -> str:
    """Starts and plans, by samples or by shards."""
    rows = report["growth"][part]
    return table(
        (
            *(
                "samples",
                "shards",
                "manifest, MB",
                "first start, s",
                "start, s",
                "resume at 90%, s",
            ),
            *("memory, MB", "plan of a batch, µs", 'the same, "full"'),
        ),
        (
            (
                f"{row['samples']:,}",
                f"{row['shards']:,}",
                f"{row['manifest_MB']:.3g}",
                *(_median(row, name) for name in ("parse_s", "start_s", "resume_s", "start_MB")),
                *(_median(row, name) for name in ("plan_us", "full_plan_us")),
            )
            for row in rows
        ),
    )


def annotations(report: Report) -> str:
    """What planning a build costs."""
    return table(
        ("annotation lines", "planned in, s", "memory at the peak, MB"),
        (
            (f"{row['lines']:,}", f"{row['s']:.3g}", f"{row['peak_MB']:,.0f}")
            for row in report["annotations"]
        ),
    )


def ranks(report: Report) -> str:
    """Balance, and bytes over all nodes."""
    return table(
        (
            *("ranks", "nodes", "epoch", "batches of a rank", "samples of a rank"),
            *("fetched by a node", "fetched by all nodes"),
        ),
        (
            (
                str(row["ranks"]),
                _nodes(row),
                row["part of the epoch"],
                _span(row["batches of a rank"]),
                _span(row["samples of a rank"]),
                f"{row['fetched by a node'][1]:.1%}",
                f"{row['fetched by all']:.1%}",
            )
            for row in report["ranks"]
        ),
    )


def threads(report: Report) -> str:
    """Rates by threads, measured and modelled."""
    kinds = report["threads"]
    counts = list(next(iter(kinds.values()))["model"])
    head = [f"{kind}, {how}" for kind in kinds for how in ("measured", "model")]
    rows = (
        (
            count,
            *(
                cell
                for found in kinds.values()
                for cell in (_measured(found, count), f"{found['model'][count]:,.0f}")
            ),
        )
        for count in counts
    )
    costs = "; ".join(
        f"{kind} {found['decode_us']['median']:.0f} µs to decode, {found['lock_us']:.0f} µs beside"
        for kind, found in kinds.items()
    )
    return f"{table(('threads', *head), rows)}\n\nMeasured for each clip: {costs}."


def links(report: Report, latency: str) -> str:
    """First batch and efficiency: links by shard sizes."""
    rows = [row for row in report["links"]["links"] if row["latency"] == latency]
    sizes = sorted({row["shard_MB"] for row in rows})
    speeds = sorted({row["link_MB_per_s"] for row in rows})
    found = {(row["link_MB_per_s"], row["shard_MB"]): row for row in rows}
    threads_of = {row["link_MB_per_s"]: row["threads"] for row in rows}
    return table(
        ("link", *(f"{size} MB" for size in sizes), "threads to keep up"),
        (
            (
                f"{speed} MB/s",
                *(
                    f"{found[speed, size]['first_batch_s']:.1f} s, "
                    f"{found[speed, size]['efficiency']:.0%}"
                    for size in sizes
                ),
                f"{threads_of[speed]:.1f}",
            )
            for speed in speeds
        ),
    )


def link_costs(report: Report) -> str:
    """What the model of links is made of, and how it agrees with a run."""
    costs = report["links"]["costs"]
    parts = (
        f"Measured: {costs['shard_ms']:.1f} ms of the processor a shard and "
        f"{costs['ms_per_MB']:.1f} ms a MB for fetching, {costs['decode_ms_per_clip']:.2f} ms "
        f"for decoding a clip; {costs['start_round_trips']:g} round trips until the first shard."
    )
    agreement = report["links"]["model / measured, on the mount"]
    if agreement is None:
        return parts
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in agreement.items())
    return f"{parts} Model / measured, on the slow mount of the benchmarks: {told}."


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _median(row: dict[str, Any], name: str) -> str:
    return f"{row[name]['median']:.3g}"


def _measured(found: dict[str, Any], count: str) -> str:
    return f"{found['measured'][count]['median']:,.0f}" if count in found["measured"] else ""


def _span(values: list[int]) -> str:
    low, high = values
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _nodes(row: dict[str, Any]) -> str:
    began = row["began with nodes"]
    return str(row["nodes"]) if began == row["nodes"] else f"{row['nodes']}, after {began}"
