"""Writes JSON lines, and files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``path`` if all goes well and is removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines; the file appears by rename."""
    with appearing(path) as partial:
        rows = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        partial.write_text("".join(rows), encoding="utf-8", newline="\n")
