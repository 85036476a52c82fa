"""What a line may say: its JSON, and each of the values that the packer knows."""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from shards.faults import FaultError, Kind
from shards.values import LARGEST_LABEL

MAX_KEY_BYTES = 88  # KEY.notes.npy has to fit the 100 bytes of a USTAR name
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SECONDS = 10**9  # thirty years: beyond it is a slip of the pen, and of the arithmetic
_LARGEST = sys.float_info.max
_NUMBERS = {int, float}  # and no bool
_DEEPEST = 100  # what looks into a record calls itself at every level
_raw_decode = json.JSONDecoder().raw_decode


def parse_line(text: bytes) -> dict[str, Any]:
    """The object on a line, which may still hold numbers that are none.

    Raises:
        FaultError: if there is none.
    """
    line = text.decode()
    try:
        record, end = _raw_decode(line)
        if end != len(line):
            record = json.loads(line)  # which says what is wrong with the rest
    except RecursionError:
        raise FaultError(Kind.JSON, "not JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise FaultError(Kind.JSON, f"not JSON: {error.msg} at column {error.colno}") from error
    except ValueError:  # Python's own limit of digits
        raise FaultError(Kind.JSON, "out of range: an integer has at most 64 bits") from None
    if not isinstance(record, dict):
        raise FaultError(Kind.JSON, f"not a JSON object but {type(record).__name__}")
    if text.count(b"{") + text.count(b"[") > _DEEPEST and _depth(record) > _DEEPEST:
        raise FaultError(Kind.JSON, f"nested more than {_DEEPEST} deep")
    if b"\\u" in text:
        _require_unicode(record)
    return record


def check_labels(
    labels: Any, label_range: tuple[float, float] | None = None
) -> Mapping[str, float | None]:
    """Labels as they stand in a line.

    Raises:
        FaultError: if they are none, or one lies outside ``label_range``.
    """
    if not isinstance(labels, dict):
        raise FaultError(Kind.LABEL, f"'labels' must be an object of numbers, got {labels!r:.100}")
    for name, value in labels.items():
        if value is None:
            continue
        if type(value) not in _NUMBERS:
            raise FaultError(
                Kind.LABEL, f"label {name!r} must be a number or null, got {value!r:.100}"
            )
        if not abs(value) <= LARGEST_LABEL:
            reason = (
                f"label {name!r} must be finite, got {value} (a float32 holds up to "
                f"{LARGEST_LABEL:.3g}); null says that it is missing"
            )
            raise FaultError(Kind.LABEL, reason)
        if label_range and not label_range[0] <= value <= label_range[1]:
            low, high = label_range
            reason = f"label {name!r} is {value}, outside {low:g} to {high:g}"
            raise FaultError(Kind.LABEL_RANGE, reason)
    return labels


def shown(record: Any, text: bytes) -> Any:
    """A faulty line as ``rejected.jsonl`` tells it: its object if that is JSON, else the text."""
    try:
        json.dumps(record, allow_nan=False)
    except (TypeError, ValueError):
        return text.decode()
    return record


def _depth(value: Any) -> int:
    """How many objects and lists lie within each other."""
    depth, level = 0, [value]
    while level := [inner for inner in level if isinstance(inner, (dict, list))]:
        depth += 1
        level = [v for one in level for v in (one.values() if isinstance(one, dict) else one)]
    return depth


def _require_unicode(record: Mapping[str, Any]) -> None:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        reason = f"not Unicode text: {half} is half of a surrogate pair"
        raise FaultError(Kind.JSON, reason) from None


def check_seconds(record: Mapping[str, Any], name: str) -> float | None:
    """A time of a line; None where it has none.

    Raises:
        FaultError: if it is no time within a recording.
    """
    value = record.get(name)
    if value is None:
        return None
    if type(value) not in _NUMBERS or not abs(value) <= _LARGEST:
        raise FaultError(Kind.TIME, f"{name!r} must be a number of seconds, got {value!r}")
    if value < 0:
        raise FaultError(Kind.TIME, f"{name!r} must not be negative, got {value}")
    if value > _MAX_SECONDS:
        raise FaultError(Kind.TIME, f"{name!r} must be at most {_MAX_SECONDS} seconds, got {value}")
    return float(value)


def check_key(record: Mapping[str, Any]) -> str:
    """The key that a line gives itself; empty where it has none.

    Raises:
        FaultError: if it cannot be a member's name.
    """
    own = record.get("key")
    if own is None:
        return ""
    if not isinstance(own, str) or not _KEY.fullmatch(own) or len(own) > MAX_KEY_BYTES:
        raise FaultError(
            Kind.KEY,
            f"'key' must be 1 to {MAX_KEY_BYTES} letters, digits, '-' and '_', got {own!r}",
        )
    return own
