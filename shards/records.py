"""The JSON of samples: over a whole dataset the same keys, and one type for each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from shards.faults import FaultError, Kind

# written by the packer into every sample, so no annotation may use them
COMPUTED = ("sample_rate", "frames", "duration", "midi_bar", "midi_beat", "has_midi")

Row = TypeVar("Row")

_KINDS = {
    dict: "object",
    list: "array",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
}
_SHAPES = 10_000  # remembered; records of further ones are looked at each time


class Layout:
    """The fields of all records added, at every depth, each of one type.

    Key order is that of first appearance. Fields are told apart by their place, not by how it is
    spelled: a key ``a.b`` is not the key ``b`` of an object ``a``.
    """

    def __init__(self, like: Mapping[str, Any] | None = None) -> None:
        """Start without fields, or with those of a record to which nothing may be added."""
        self._root = _Field()
        self._shapes: set[Any] = set()
        self._closed = like is not None
        if like is not None:
            self._root.add(like, 0, "")

    def add(self, line: int, record: Mapping[str, Any]) -> None:
        """Note the fields of a line.

        Raises:
            FaultError: if one is of another type than on an earlier line or must not be added, or
                a number is out of range.
        """
        shape = _shape(record)
        if shape in self._shapes:
            return
        own = _Field()
        own.add(record, line, "")
        self._root.require_alike(own, line, "")
        if self._closed:
            self._root.require_known(own, "")
        self._root.add(record, line, "")
        if len(self._shapes) < _SHAPES:
            self._shapes.add(shape)

    def names(self, field: str | None = None) -> tuple[str, ...]:
        """Names of the fields, or of those within one that is an object."""
        within = self._root if field is None else self._root.names.get(field, _Field())
        return tuple(within.names)

    def fill(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record with the keys of all, null where missing.

        Numbers of a field become float if one of them is one in any record.
        """
        filled: dict[str, Any] = self._root.fill(record)
        return filled

    def outline(self) -> Any:
        """Names and types of all fields as JSON: equal if ``fill`` makes equal records."""
        return self._root.outline()


class Unified(Sequence[dict[str, Any]]):
    """Records filled to one layout, each made when it is asked for: a million are not held."""

    def __init__(
        self, rows: Sequence[Row], record_of: Callable[[Row], Mapping[str, Any]], layout: Layout
    ) -> None:
        self._rows: Sequence[Any] = rows
        self._record_of: Callable[[Any], Mapping[str, Any]] = record_of
        self.layout = layout

    def take(self, places: Sequence[int]) -> "Unified":
        """Some of the records, with the keys of all."""
        rows = [self._rows[place] for place in places]
        return Unified(rows, self._record_of, self.layout)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Unified": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Unified":
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return self.layout.fill(self._record_of(self._rows[index]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.layout.fill(self._record_of(row)) for row in self._rows)


class _Field:
    """What the values at one place are like, and below it those of the fields within."""

    __slots__ = ("is_float", "items", "kind", "line", "names")

    def __init__(self) -> None:
        self.kind = ""  # until a value is not null
        self.line = 0  # of that value
        self.names: dict[str, _Field] = {}
        self.items: _Field | None = None
        self.is_float = False

    def add(self, value: Any, line: int, spelled: str) -> None:
        """Note what one value is like; raise FaultError if it is not like those before."""
        if value is None:
            return
        kind = _KINDS[type(value)]
        self._require(kind, line, spelled)
        if not self.kind:
            self.kind, self.line = kind, line
        if kind == "object":
            for name, inner in value.items():
                self.names.setdefault(name, _Field()).add(inner, line, f"{spelled}.{name}")
        elif kind == "array":
            self.items = self.items or _Field()
            for inner in value:
                self.items.add(inner, line, f"{spelled}[]")
        elif type(value) is float:
            self.is_float = True

    def require_alike(self, other: "_Field", line: int, spelled: str) -> None:
        """Raise FaultError if a field of ``other`` has another type here."""
        if other.kind:
            self._require(other.kind, line, spelled)
        for name in other.names.keys() & self.names.keys():
            self.names[name].require_alike(other.names[name], line, f"{spelled}.{name}")
        if other.items and self.items:
            self.items.require_alike(other.items, line, f"{spelled}[]")

    def require_known(self, other: "_Field", spelled: str) -> None:
        """Raise FaultError if ``other`` has a field that is not here, or the first fraction."""
        if self.kind == "number" and other.is_float and not self.is_float:
            raise FaultError(
                Kind.NEW_FIELD, f"{spelled[1:]!r} is a whole number in the dataset, and here is not"
            )
        for name, field in other.names.items():
            if name not in self.names:
                reason = f"{f'{spelled}.{name}'[1:]!r} is no field of the dataset"
                raise FaultError(Kind.NEW_FIELD, reason)
            self.names[name].require_known(field, f"{spelled}.{name}")
        if other.items and self.items:
            self.items.require_known(other.items, f"{spelled}[]")

    def fill(self, value: Any) -> Any:
        """A value with all the keys, and its numbers as floats if some are."""
        kind = type(value)
        if kind is dict:
            get = value.get
            return {name: field.fill(get(name)) for name, field in self.names.items()}
        if kind is int and self.is_float:
            return float(value)
        if kind is list and self.items:
            return [self.items.fill(inner) for inner in value]
        return value

    def outline(self) -> Any:
        if self.kind == "object":
            return {name: field.outline() for name, field in self.names.items()}
        if self.items:
            return [self.items.outline()]
        return "float" if self.is_float else self.kind

    def _require(self, kind: str, line: int, spelled: str) -> None:
        if self.kind and self.kind != kind:
            before = f"on line {self.line}" if self.line else "in the dataset"
            raise FaultError(
                Kind.MIXED_TYPES,
                f"{spelled.removeprefix('.')!r} is of type {self.kind} {before} but "
                f"{kind} on line {line}; a field needs one type in all lines",
            )


def _shape(value: Any) -> Any:
    """Names and types of a value at every depth, hashable: equal for records laid out alike.

    Raises:
        FaultError: if a number is not finite or needs more than 64 bits.
    """
    kind = type(value)
    if kind is dict:
        return (dict, *[(n, str if type(v) is str else _shape(v)) for n, v in value.items()])
    if kind is list:
        return (list, *dict.fromkeys(map(_shape, value)))
    if kind is float and value - value != 0.0:
        raise FaultError(Kind.JSON, f"{value} is no JSON number; null says that one is missing")
    if kind is int and not -(2**63) <= value < 2**63:
        raise FaultError(Kind.JSON, f"{str(value)[:20]}... is out of range: an integer has 64 bits")
    return kind
