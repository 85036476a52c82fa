"""The tables of a report as Markdown."""

from collections.abc import Sequence
from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """All ``tables`` of a report, each below its title, and its ``notes``."""
    parts = []
    for table in report["tables"]:
        parts += [f"### {table['title']}", grid(table["columns"], table["rows"])]
    return "\n\n".join([*parts, *report["notes"]])


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; rows may be shorter than it is wide."""
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
    for row in rows:
        cells = [cell.replace("|", "/") for cell in row] + [""] * (len(columns) - len(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
