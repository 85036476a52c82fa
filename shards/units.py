"""Bytes in words, and words as bytes."""

import re

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SMALLEST = 10_000  # bytes, below which a number without a unit is a slip
_WHOLE = 0.1  # of a unit: less is told in the next smaller one


def size(text: str) -> int:
    """Bytes, such as ``32MB``.

    Raises:
        ValueError: if it is no size, or so small a number that its unit was forgotten.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?B?)", text.strip().upper())
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no size such as 32MB")
    value = round(float(match[1]) * _UNITS[match[2]])
    if value < _SMALLEST and not match[2]:
        raise ValueError(f"{text} is {text} bytes: say {text}MB, or {text}B")
    return value


def in_words(count: float) -> str:
    """Bytes in GB, or in a smaller unit where that would be next to nothing."""
    for unit in ("GB", "MB"):
        if count >= _WHOLE * _UNITS[unit]:
            return f"{count / _UNITS[unit]:.1f} {unit}"
    return f"{count / _UNITS['KB']:.1f} kB"
