"""What all turns found, as one report with its tables."""

import statistics
from typing import Any

from benchmarks.peers.catalog import PEERS, ROWS, Peer
from benchmarks.peers.run import RESUMED, Run, turn_name
from benchmarks.peers.setting import BATCH, DECODED, FLAC, OURS, SOUNDFILE, USERS

Row = dict[str, Any]

TITLES = {
    (FLAC, USERS): "FLAC and MIDI, decoded as its users write it",
    (FLAC, SOUNDFILE): "FLAC and MIDI, decoded by soundfile and symusic for all",
    (FLAC, OURS): "FLAC and MIDI, decoded by this project's decoders for all",
    (DECODED, USERS): "Decoded arrays, each in its own format",
}
# Title, name, whether more is better, and how it is written.
COLUMNS = (
    ("samples/s", "samples_per_s", True, "{:.0f}"),
    ("CPU ms a sample", "cpu_ms", False, "{:.2f}"),
    ("peak MB", "peak_mb", False, "{:.0f}"),
    ("first batch, s", "first_s", False, "{:.2f}"),
    ("resumed, s", "resumed_s", False, "{:.2f}"),
)
STORED = ("stored MB/s", "stored_mb_per_s", "{:.1f}")
OURSELVES = PEERS[0].name


def report(run: Run, peers: list[Peer], *, machine: Row, command: str) -> Row:
    """The report of a run, as JSON."""
    rows = [r for row in ROWS for peer in peers if row in peer.rows and (r := _row(run, peer, row))]
    versions = dict(machine["versions"])
    for peer in peers:
        versions |= _told(run, peer, "versions", {})
    return {
        "machine": machine | {"versions": versions},
        "command": command,
        "batch": BATCH,
        "tables": [_table(title, _of(rows, row)) for row, title in TITLES.items()],
        "headline": _headline(rows, peers),
        "notes": [_behind(rows), _how_resumed(run, peers)],
        "ratios": _ratios(rows),
        "rows": rows,
    }


def _row(run: Run, peer: Peer, row: tuple[str, str]) -> Row | None:
    """Medians of a peer's turns, or its error; None if it had none."""
    known = run.results(peer)
    kind, decoders = row
    begun = {"peer": peer.name, "kind": kind, "decoders": decoders, "limit": peer.limit}
    before = (turn_name("prepare", (kind, USERS), 0), turn_name("probe", row, 0))
    turns = [known[n] for i in range(run.rounds) if (n := turn_name("measure", row, i)) in known]
    for turn in [*(known.get(name, {}) for name in before), *turns]:
        if "error" in turn:
            return begun | {"error": turn["error"]}
    if not turns:
        return None
    stored = known[before[0]]["bytes_a_sample"] / 1e6
    figures = _medians(turns, stored) | (_resumed(run, peer) if row == RESUMED else {})
    return begun | {"workers": run.workers(peer, row), **figures, "turns": turns}


def _medians(turns: list[Row], stored_mb: float) -> Row:
    def median(name: str) -> float:
        return statistics.median(turn[name] for turn in turns)

    rate = median("samples_per_s")
    return {
        "samples_per_s": rate,
        "stored_mb_per_s": rate * stored_mb,
        "cpu_ms": median("cpu_s") * 1e3,
        "peak_mb": median("peak_bytes") / 1e6,
        "first_s": median("first_s"),
    }


def _resumed(run: Run, peer: Peer) -> Row:
    """Seconds to the first batch after half an epoch, or why there are none."""
    known = run.results(peer)
    names = [turn_name("save", RESUMED, 0)]
    names += [turn_name("resume", RESUMED, i) for i in range(run.rounds)]
    turns = [known[name] for name in names if name in known]
    for turn in turns:
        if "error" in turn:
            return {"resume_error": turn["error"]}
    seconds = [turn["resumed_s"] for turn in turns if "resumed_s" in turn]
    return {"resumed_s": statistics.median(seconds)} if seconds else {}


def _table(title: str, rows: list[Row]) -> Row:
    """The fastest first; errors and limits at the end."""
    columns = ["", "workers", *(column for column, *_ in COLUMNS), STORED[0]]
    rows = sorted(rows, key=lambda r: (r["limit"], "error" in r, -r.get("samples_per_s", 0)))
    return {"title": title, "columns": columns, "rows": [_cells(row) for row in rows]}


def _cells(row: Row) -> list[str]:
    name = f"**{row['peer']}**" if row["peer"] == OURSELVES else row["peer"]
    if "error" in row:
        return [name, "", row["error"]]
    named = [(n, form) for _, n, _, form in COLUMNS] + [STORED[1:]]
    cells = [form.format(row[n]) if n in row else row.get(f"{n}_error", "") for n, form in named]
    if "resume_error" in row:
        cells[-2] = row["resume_error"]
    return [name, str(row["workers"]), *cells]


def _headline(rows: list[Row], peers: list[Peer]) -> Row:
    """The fewest figures that say most, a line for each peer."""
    wanted = (
        ("FLAC, its users' decoders, samples/s", (FLAC, USERS), COLUMNS[0]),
        ("FLAC, this project's decoders, samples/s", (FLAC, OURS), COLUMNS[0]),
        ("decoded, samples/s", (DECODED, USERS), COLUMNS[0]),
        ("CPU ms a FLAC sample", (FLAC, OURS), COLUMNS[1]),
        ("peak MB", (FLAC, OURS), COLUMNS[2]),
        ("resumed, s", RESUMED, COLUMNS[4]),
    )
    lines = []
    for peer in peers:
        cells = [f"**{peer.name}**" if peer.name == OURSELVES else peer.name]
        for _, row, (_, name, _, form) in wanted:
            found = [r for r in _of(rows, row) if r["peer"] == peer.name and name in r]
            cells.append(form.format(found[0][name]) if found else "")
        lines.append(cells)
    return {"columns": ["", *(title for title, *_ in wanted)], "rows": lines}


def _ratios(rows: list[Row]) -> dict[str, float]:
    """This project beside the best of the others, in each table and column: above 1 is ahead."""
    found = {}
    for row, title in TITLES.items():
        own, others = _split(rows, row)
        for column, name, more, _ in COLUMNS:
            ratios = [_ahead(own, other, name, more) for other in others if name in other]
            if name in own and ratios:
                found[f"{title}: {column}"] = round(min(ratios), 2)
    return found


def _behind(rows: list[Row]) -> str:
    """Where a peer is ahead of this project."""
    found = []
    for row, title in TITLES.items():
        own, others = _split(rows, row)
        for column, name, more, _ in COLUMNS:
            for other in others:
                if name in own and name in other and (ratio := _ahead(own, other, name, more)) < 1:
                    found.append(f"{other['peer']} ({title}: {column}, {1 / ratio:.2f} times)")
    return f"Ahead of this project: {'; '.join(found) or 'no peer in any column'}."


def _ahead(own: Row, other: Row, name: str, more: bool) -> float:
    return float(own[name] / other[name] if more else other[name] / own[name])


def _how_resumed(run: Run, peers: list[Peer]) -> str:
    ways = [f"{p.name}: {_told(run, p, 'resumes', '')}" for p in peers if not p.limit]
    return f"Resumed: time to the first batch after half an epoch, by {'; '.join(ways)}."


def _of(rows: list[Row], row: tuple[str, str]) -> list[Row]:
    return [r for r in rows if (r["kind"], r["decoders"]) == row]


def _split(rows: list[Row], row: tuple[str, str]) -> tuple[Row, list[Row]]:
    """This project's row of a table, and those of its peers."""
    here = [r for r in _of(rows, row) if not r["limit"] and "error" not in r]
    own = [r for r in here if r["peer"] == OURSELVES]
    return (own[0] if own else {}), [r for r in here if r["peer"] != OURSELVES]


def _told(run: Run, peer: Peer, name: str, default: Any) -> Any:
    """What a peer told of itself when it was prepared."""
    return run.results(peer).get(turn_name("prepare", ROWS[0], 0), {}).get(name, default)
