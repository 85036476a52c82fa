"""The user's table: time to the first batch, one epoch, five, and three experiments."""

from typing import Any

from benchmarks.drive.experiments import FAILS_EVERY, Experiments
from benchmarks.drive.mount import BYTES_PER_S, FUSE, LATENCY_S
from benchmarks.drive.ways import WAYS

Row = dict[str, Any]

FILES, COPIED = "file by file", ("files copied first", "shards copied first")
OURS = ("this project, raw", "this project, decoded")
SCALED = tuple(way.name for way in WAYS if way.partly)


def report(experiments: Experiments, results: dict[str, Row], *, machine: Row, command: str) -> Row:
    """The report of all ways, as JSON."""
    rows = [_row(name, result) for name, result in results.items()]
    size = sum(path.stat().st_size for path in experiments.run.dataset.glob("*.tar"))
    link_s, number, epochs = size / BYTES_PER_S, experiments.number, experiments.epochs
    mount = {"kind": "FUSE" if FUSE else "fsspec", "latency_s": LATENCY_S}
    return {
        "machine": machine,
        "command": command,
        "measure": "One run",
        "mount": mount | {"bytes_per_s": BYTES_PER_S, "fails_every": FAILS_EVERY},
        "samples": experiments.samples,
        "link_s": link_s,
        "tables": [_table(rows, link_s, number, epochs)],
        "notes": [_counted(experiments)],
        "ratios": _ratios(rows, link_s),
        "rows": rows,
    }


def _counted(experiments: Experiments) -> str:
    """What the seconds are of."""
    kind, rate = "FUSE" if FUSE else "fsspec", f"{BYTES_PER_S / 1e6:.0f} MB/s"
    return (
        f"Seconds of waiting for data: {experiments.samples} clips through {kind} with "
        f"{LATENCY_S * 1000:.0f} ms a request and {rate}, {experiments.step_s:g} s of training a "
        f"batch. \\* {experiments.part} samples, scaled up to all. Failing: from a mount on which "
        f"every {FAILS_EVERY}th read is an I/O error. Packing, which reads every file through the "
        "mount once, and what others do to bring the clips into their format, is not counted."
    )


def _table(rows: list[Row], link_s: float, number: int, epochs: int) -> Row:
    columns = {
        "first batch": "first_s",
        "first epoch": "first_epoch_s",
        "second epoch": "second_epoch_s",
        f"{epochs} epochs": "experiment_s",
        "first batch, next experiment": "warm_first_s",
        f"{number} experiments": "all_s",
        "first epoch, failing": "failing",
    }
    lines = []
    for row in rows:
        name = f"**{row['way']}**" if row["way"] in OURS else row["way"]
        name += " \\*" if row["way"] in SCALED else ""
        cells = [row.get("error", "")] if "error" in row else []
        cells = cells or [_cell(row.get(name)) for name in columns.values()]
        lines.append([name, *cells])
    lines.append(["the link alone", "", _cell(link_s)])
    return {"title": "Seconds", "columns": ["", *columns], "rows": lines}


def _cell(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value or ""


def _row(name: str, result: Row) -> Row:
    if "error" in result:
        return {"way": name, "error": result["error"]}
    done = result["experiments"]
    row = {
        "way": name,
        "first_s": done[0]["first_s"],
        "first_epoch_s": done[0]["epochs_s"][0],
        "second_epoch_s": done[0]["epochs_s"][min(1, len(done[0]["epochs_s"]) - 1)],
        "experiment_s": sum(done[0]["epochs_s"]),
        "warm_first_s": done[-1]["first_s"],
        "all_s": sum(sum(experiment["epochs_s"]) for experiment in done),
        "epochs_s": [experiment["epochs_s"] for experiment in done],
    }
    if failing := result.get("failing"):
        row["failing"] = failing.get("error") or failing["experiments"][0]["epochs_s"][0]
    return row


def _ratios(rows: list[Row], link_s: float) -> dict[str, float]:
    """This project beside the link, and the others beside this project: above 1 is ahead."""
    known = {row["way"]: row for row in rows if "error" not in row}
    found = {}
    for name in (name for name in OURS if name in known):
        own = known[name]
        found[f"first epoch: the link / {name}"] = link_s / own["first_epoch_s"]
        if FILES in known:
            ratio = known[FILES]["second_epoch_s"] / own["second_epoch_s"]
            found[f"second epoch: {FILES} / {name}"] = ratio
        for other in (row for row in known.values() if row["way"] not in OURS):
            found[f"all experiments: {other['way']} / {name}"] = other["all_s"] / own["all_s"]
    caching = [row["first_s"] for way, row in known.items() if way not in (*OURS, FILES, *COPIED)]
    if caching and OURS[0] in known:
        first = min(caching) / known[OURS[0]]["first_s"]
        found[f"first batch: the first of those with a cache / {OURS[0]}"] = first
    return {name: round(ratio, 3) for name, ratio in found.items()}
