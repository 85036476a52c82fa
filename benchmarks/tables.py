"""The tables of a report, and them as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """All ``tables`` of a report, each below its title, and its ``notes``."""
    parts = []
    for table in report["tables"]:
        parts += [f"### {table['title']}", grid(table["columns"], table["rows"])]
    return "\n\n".join([*parts, *report["notes"]])


def facts(title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A table of names and what is said of each."""
    rows = [[name.replace("_", " "), _said(value)] for name, value in found.items()]
    return {"title": title, "columns": ["what", ""], "rows": rows}


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; rows may be shorter than it is wide."""
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
    for row in rows:
        cells = [cell.replace("|", "/") for cell in row] + [""] * (len(columns) - len(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
