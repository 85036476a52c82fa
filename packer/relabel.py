"""New ratings beside the shards of a dataset, which stay as they are."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packer.place import read_keys
from packer.report import Report
from packer.splits import open_splits
from packer.summary import label_stats
from packer.target import Target
from shards.errors import AnnotationError
from shards.faults import FaultError, Kind, Rejection
from shards.keys import key_hash
from shards.line import check_labels, parse_line, shown
from shards.manifest import LabelStats
from shards.schema import read_lines

log = logging.getLogger("packer")

FILE = "labels.jsonl"


@dataclass(frozen=True, slots=True)
class Relabelled:
    """Ratings that were written.

    Attributes:
        url: of their file.
        rated: samples that have some now; ``samples`` is how many there are.
    """

    url: str
    rated: int
    samples: int
    labels: dict[str, LabelStats]


def relabel(
    url: str,
    labels: Path,
    *,
    label_range: tuple[float, float] | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Relabelled:
    """Check ratings and put them beside a dataset, or a folder of splits, as ``labels.jsonl``.

    ``make_pipeline(labels=...)`` reads that file. One that is there already is replaced, with all
    its ratings; a warning tells how many samples have none any more.

    Args:
        labels: JSON lines ``{"key": ..., "labels": {...}}``.
        label_range: lowest and highest value that a label may have.

    Raises:
        AnnotationError: if there are no ratings, a line is wrong, or it names a key that the
            dataset has not; nothing is written then.
        ManifestError: if there is no dataset, or it has no ``keys.bin``.
    """
    datasets = open_splits(url, storage_options)
    known = np.concatenate([read_keys(dataset)["hash"] for dataset in datasets.values()])
    rated, rejected = _read(labels, label_range)
    total = len(rated) + len(rejected)
    if not total:
        raise AnnotationError(f"{labels}: holds no ratings; JSON lines of keys and labels are due")
    rejected += _unknown(rated, known, url)
    Report(labels, total, None, rejected, "lines of ratings cannot be used").check()
    target = Target(url, storage_options)
    rows = ({"key": key, "labels": own} for _, key, own in rated)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    _warn_of_lost(target, rated)
    target.write(FILE, text.encode())
    names = list(dict.fromkeys(name for _, _, own in rated for name in own))
    stats = label_stats(names, (own for _, _, own in rated))
    return Relabelled(f"{target.url}/{FILE}", len(rated), len(known), stats)


_Rated = tuple[int, str, dict[str, float | None]]  # line, key, ratings


def _read(
    path: Path, label_range: tuple[float, float] | None
) -> tuple[list[_Rated], list[Rejection]]:
    rated: list[_Rated] = []
    rejected: list[Rejection] = []
    lines: dict[str, int] = {}
    for line, text in read_lines(path):
        record: Any = text
        try:
            record = parse_line(text)
            key = record.get("key")
            if not isinstance(key, str):
                raise FaultError(Kind.KEY, f"'key' must name a sample, got {key!r:.100}")
            own = check_labels(record.get("labels"), label_range)
            if lines.setdefault(key, line) != line:
                reason = f"key {key!r} is that of line {lines[key]} too"
                raise FaultError(Kind.DUPLICATE_KEY, reason)
        except FaultError as fault:
            rejected.append(Rejection(line, str(fault), shown(record, text), fault.kind))
            continue
        numbers = {name: None if value is None else float(value) for name, value in own.items()}
        rated.append((line, key, numbers))
    return rated, rejected


def _unknown(rated: Sequence[_Rated], known: NDArray[np.uint64], url: str) -> list[Rejection]:
    """Lines of keys that the dataset has not."""
    hashes = np.array([key_hash(key) for _, key, _ in rated], dtype=np.uint64)
    lost = np.flatnonzero(~np.isin(hashes, known))
    return [
        Rejection(line, f"{url} has no sample {key!r}", {"key": key}, Kind.UNKNOWN_KEY)
        for line, key, _ in (rated[int(place)] for place in lost)
    ]


def _warn_of_lost(target: Target, rated: Sequence[_Rated]) -> None:
    """Tell how many samples have ratings in the file that is replaced, and none in the new one."""
    try:
        lines = target.read(FILE).splitlines()
    except FileNotFoundError:
        return
    now = {key for _, key, _ in rated}
    lost = [key for key in dict.fromkeys(map(_key_of, lines)) if key and key not in now]
    if lost:
        log.warning(
            "%s/%s: %d samples had ratings there and have none now, such as %s: the new file takes "
            "the place of the old one; write all ratings into it if they are to stay",
            *(target.url, FILE, len(lost), lost[0]),
        )


def _key_of(line: bytes) -> str:
    """The key on a line of ratings; empty where there is none to be read."""
    try:
        key = parse_line(line).get("key")
    except ValueError:
        return ""
    return key if isinstance(key, str) else ""
