"""New ratings over the same shards: a JSONL of keys and labels."""

import json
import math
from typing import Any

from loader.recipe import Labels
from loader.transfer import read_url
from shards.errors import AnnotationError


def read_labels(url: str, options: dict[str, Any] | None = None) -> dict[str, Labels]:
    """Labels by key.

    Raises:
        AnnotationError: naming the line that is not ``{"key": ..., "labels": {...}}``, has a
            label that is neither a finite number nor null, or a key that came before.
        FileNotFoundError: if there is no such file.
    """
    labels: dict[str, Labels] = {}
    for line, text in enumerate(read_url(url, options).decode().splitlines(), 1):
        if not text.strip():
            continue
        try:
            key, own = _parse(text)
        except ValueError as error:
            raise AnnotationError(f"{url}:{line}: {error}") from error
        if key in labels:
            raise AnnotationError(f"{url}:{line}: key {key!r} came on an earlier line")
        labels[key] = own
    return labels


def _parse(text: str) -> tuple[str, Labels]:
    record = json.loads(text)
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        raise ValueError("an object with a key and labels is expected")
    own = record.get("labels")
    if not isinstance(own, dict):
        raise ValueError(f"labels must be an object of numbers, got {own!r}")
    for name, value in own.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value)):
            raise ValueError(f"label {name!r} must be a finite number or null, got {value!r}")
    return record["key"], own
