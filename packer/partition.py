"""Which split each sample goes to: by shares, or by a field of its line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packer.options import Options
from packer.plan import assign_splits
from shards.errors import AnnotationError
from shards.schema import Annotation

_KNOWN_AS = {"validation": "val"}  # MAESTRO's word for what is read as val/


def partition(
    annotations: Sequence[Annotation], options: Options, *, source: Path
) -> Mapping[str, Sequence[int]]:
    """Samples of each split, in order; all of them under an empty name without splits.

    Args:
        source: what the annotations come from, for errors.

    Raises:
        AnnotationError: if a line lacks the field that decides.
        ValueError: if a split would be empty.
    """
    if options.split_by is not None:
        return _by_field(annotations, options.split_by, source)
    if not options.split:
        return {"": range(len(annotations))}
    groups = list(_groups(annotations, options.group_by, source))
    chosen = assign_splits(groups, shares=options.split, seed=options.seed)
    parts: dict[str, list[int]] = {split: [] for split in options.split}
    for index, split in enumerate(chosen):
        parts[split].append(index)
    if empty := [split for split, part in parts.items() if not part]:
        raise ValueError(_too_few(empty[0], len(set(groups)), options))
    return parts


def _by_field(annotations: Sequence[Annotation], field: str, source: Path) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for index, value in enumerate(_values(annotations, field, source, option="--split-by")):
        name = _KNOWN_AS.get(value, value) if isinstance(value, str) else ""
        if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise AnnotationError(
                f"{source}:{annotations[index].line}: {field!r} is {value!r}, which names no "
                "folder: --split-by needs words of letters, digits, '-' and '_'"
            )
        parts.setdefault(name, []).append(index)
    return parts


def _groups(annotations: Sequence[Annotation], group_by: str | None, source: Path) -> Iterator[str]:
    """What must not be in two splits: the recording, by its path from the root, or a field."""
    if group_by is None:
        yield from (annotation.source for annotation in annotations)
        return
    seen: dict[str, str] = {}
    for value in _values(annotations, group_by, source, option="--group-by"):
        group = json.dumps(value, sort_keys=True)
        yield seen.setdefault(group, group)


def _values(
    annotations: Sequence[Annotation], field: str, source: Path, *, option: str
) -> Iterator[Any]:
    """The field of every line, which has it."""
    for annotation in annotations:
        record = annotation.record
        if record.get(field) is None:
            raise AnnotationError(
                f"{source}: line {annotation.line} has no {field!r}, which {option} needs on all "
                f"lines; it has {_listed(record)}"
            )
        yield record[field]


def _listed(record: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name, value in record.items() if value is not None)


def _too_few(split: str, count: int, options: Options) -> str:
    shares = ",".join(f"{name}={share:g}" for name, share in options.split.items())
    finer = "" if options.group_by is None else ", --group-by a field of more values"
    return (
        f"split {split!r} would be empty: {count} groups of {options.group_by or 'recordings'} are "
        f"too few for --split {shares}, as none is divided: name fewer splits{finer} or pack more"
    )
