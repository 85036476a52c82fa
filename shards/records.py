"""The JSON of samples: over a whole dataset the same keys, and one type for each."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shards.errors import AnnotationError

# written by the packer into every sample, so no annotation may use them
COMPUTED = ("sample_rate", "frames", "duration", "midi_bar", "midi_beat", "has_midi")


def require_one_type(path: Path, records: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse records, by line, in which a field is of one type here and of another there.

    Raises:
        AnnotationError: naming the field and two lines.
    """
    seen: dict[str, tuple[str, int]] = {}
    for line, record in records.items():
        for field, kind in _kinds(record, ""):
            before, first = seen.setdefault(field, (kind, line))
            if before != kind:
                raise AnnotationError(
                    f"{path}: {field!r} is of type {before} on line {first} but {kind} on line "
                    f"{line}; a field needs one type in all lines"
                )


def unify(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records with the union of their keys, null where missing, at every depth.

    Numbers of a field become float everywhere if one of them is. Key order is that of first
    appearance.
    """
    kept = list(records)
    floats: set[str] = set()
    keys: dict[str, dict[str, None]] = {}
    for record in kept:
        _survey(record, "", floats, keys)
    return [_unified(record, "", floats, keys) for record in kept]


def _kinds(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Each field of a value, dotted, with its JSON type; null has none."""
    if isinstance(value, Mapping):
        if field:
            yield field, "object"
        for name, inner in value.items():
            yield from _kinds(inner, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        yield field, "array"
        for inner in value:
            yield from _kinds(inner, f"{field}[]")
    elif value is not None:
        names = {bool: "boolean", int: "number", float: "number", str: "string"}
        yield field, names[type(value)]


def _survey(value: Any, field: str, floats: set[str], keys: dict[str, dict[str, None]]) -> None:
    if isinstance(value, Mapping):
        keys.setdefault(field, {}).update(dict.fromkeys(value))
        for name, inner in value.items():
            _survey(inner, f"{field}.{name}", floats, keys)
    elif isinstance(value, list):
        for inner in value:
            _survey(inner, f"{field}[]", floats, keys)
    elif isinstance(value, float):
        floats.add(field)


def _unified(value: Any, field: str, floats: set[str], keys: dict[str, dict[str, None]]) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _unified(value.get(name), f"{field}.{name}", floats, keys) for name in keys[field]
        }
    if isinstance(value, list):
        return [_unified(inner, f"{field}[]", floats, keys) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and field in floats:
        return float(value)
    return value
