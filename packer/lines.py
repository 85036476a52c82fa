"""JSON lines in and out, and files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import AnnotationError


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


def read_lines(annotations: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (FILE:LINE, object) for every line that is not blank.

    Raises:
        AnnotationError: if the file cannot be read, or a line is not a JSON object.
    """
    try:
        text = annotations.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{annotations}: {error}") from error
    for number, row in enumerate(text.split("\n"), start=1):
        where = f"{annotations}:{number}"
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except json.JSONDecodeError as error:
            raise AnnotationError(f"{where}: not JSON: {error}") from error
        if not isinstance(line, dict):
            raise AnnotationError(f"{where}: must be a JSON object, got {type(line).__name__}")
        yield where, line


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines; the file appears by rename."""
    with appearing(path) as partial:
        rows = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        partial.write_text("".join(rows), encoding="utf-8", newline="\n")
