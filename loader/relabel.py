"""New ratings over the same shards: a JSONL of keys and labels."""

import json
import logging
import math
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import orjson

from loader.recipe import Labels
from loader.transfer import read_url
from shards.errors import AnnotationError
from shards.values import LARGEST_LABEL

log = logging.getLogger(__name__)

_NUMBERS = {int, float}  # and no bool
_SUSPICIOUS = 64  # samples in a row, from the first on, of which the file has none


class LabelTable(Mapping[str, Labels]):
    """Labels by key, as one array of numbers: a dict a key would take ten times the memory."""

    def __init__(self, name: str = "labels") -> None:
        """An empty table; a warning names it once many keys were looked up and none found."""
        self._name, self._misses = name, 0
        self._matches = self._told = False
        self._rows: dict[str, int] = {}
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}  # each layout once
        self._layouts: list[tuple[str, ...]] = []
        self._starts = array("q")
        self._values = array("d")  # NaN is null

    def add(self, key: str, own: dict[str, Any]) -> None:
        """Add the labels of a key.

        Raises:
            ValueError: if there are some already, or one is neither a finite number nor null.
        """
        if key in self._rows:
            raise ValueError(f"key {key!r} came on an earlier line")
        values = list(own.values())
        if not _are_finite(values):
            values = [_number(name, value) for name, value in own.items()]
        self._rows[key] = len(self._rows)
        names = tuple(own)
        self._layouts.append(self._names.setdefault(names, names))
        self._starts.append(len(self._values))
        self._values.extend(values)

    @property
    def label_names(self) -> list[str]:
        """All names, in order of their first appearance."""
        return list(dict.fromkeys(name for names in self._names for name in names))

    def __getitem__(self, key: str) -> Labels:
        row = self._rows.get(key)
        if row is None:
            self._miss(key)
            raise KeyError(key)
        self._matches = True
        names, start = self._layouts[row], self._starts[row]
        values = self._values[start : start + len(names)]
        pairs = zip(names, values, strict=True)
        return {name: None if math.isnan(value) else value for name, value in pairs}

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _miss(self, key: str) -> None:
        """Note a key without labels; threads may miscount, which only moves the warning."""
        self._misses += 1
        if self._misses >= _SUSPICIOUS and not self._matches and not self._told:
            self._told = True
            log.warning(
                "labels=%r: none of the first %d samples is among its %d keys, such as %r; theirs "
                "are such as %r, and keep the labels they were packed with",
                *(self._name, self._misses, len(self), next(iter(self), ""), key),
            )


def read_labels(url: str, options: dict[str, Any] | None = None) -> LabelTable:
    """Labels by key.

    Raises:
        AnnotationError: naming the line that is not ``{"key": ..., "labels": {...}}``, has a
            label that is neither a finite number nor null, or a key that came before.
        FileNotFoundError: if there is no such file.
    """
    table = LabelTable(url)
    data = read_url(url, options).removeprefix(BOM_UTF8)
    for line, text in enumerate(BytesIO(data), 1):
        try:
            if text := text.strip():
                table.add(*_parse(text))
        except (ValueError, OverflowError, RecursionError) as error:
            raise AnnotationError(f"{url}:{line}: {error}") from error
    return table


def _parse(text: bytes) -> tuple[str, dict[str, Any]]:
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError:  # json lets a NaN pass, whose label can be named then
        record = json.loads(text.decode())
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        raise ValueError("an object with a key and labels is expected")
    own = record.get("labels")
    if not isinstance(own, dict):
        raise ValueError(f"labels must be an object of numbers, got {own!r}")
    return record["key"], own


def _are_finite(values: list[Any]) -> bool:
    """Whether all are numbers that are finite as float32, at less than a look at each."""
    if not (set(map(type, values)) <= _NUMBERS and math.isfinite(sum(values))):
        return False
    return max(values, default=0) <= LARGEST_LABEL and min(values, default=0) >= -LARGEST_LABEL


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) not in _NUMBERS or not abs(value) <= LARGEST_LABEL:
        raise ValueError(
            f"label {name!r} must be a finite number (a float32) or null, got {value!r}"
        )
    return float(value)
