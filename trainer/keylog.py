"""The log of keys: which samples every batch of a run held, each once, however often it stopped."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NAME = "keys.jsonl"


def line(*, epoch: int, batch: int, keys: Sequence[str]) -> dict[str, Any]:
    """What the log holds of a batch; padding has no key.

    Args:
        batch: number of the batch in the run, from 1.
    """
    return {"epoch": epoch, "batch": batch, "keys": [key for key in keys if key]}


def append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add lines, and wait until they are on the disk: a checkpoint is never ahead of its log.

    Raises:
        OSError: if they cannot be written; then none of them is there.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        if path.exists():
            os.truncate(path, before)
        raise


def cut_back(path: Path, *, batches: int) -> None:
    """Take away what came after so many batches, and a line that was cut short.

    All behind a line that cannot be read goes too; that is told.
    """
    if not path.exists():
        return
    keep = 0
    with path.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            if (batch := _batch(raw)) is None:
                log.warning("%s: a line cannot be read: it ends at byte %d", path, keep)
                break
            if batch > batches:
                break
            keep += len(raw)
    os.truncate(path, keep)


def _batch(raw: bytes) -> int | None:
    """Number of a line's batch; None if it is not a line of the log."""
    try:
        return int(json.loads(raw)["batch"])
    except (ValueError, KeyError, TypeError):
        return None


def merge(ranks: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One line a batch out of every rank's."""
    return [
        one[0] | {"keys": [key for part in one for key in part["keys"]]}
        for one in zip(*ranks, strict=True)
    ]
