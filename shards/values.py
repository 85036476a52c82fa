"""Values of anybody, of JSON and of arguments: numbers where they are numbers, and nothing else."""

import math
from numbers import Real
from typing import Any, TypeGuard

LARGEST_LABEL = (2 - 2**-23) * 2.0**127  # of float32, which a batch has them as


def is_real(value: object) -> TypeGuard[float]:
    """Whether an argument is a number of any type, such as numpy's; no truth value is."""
    return isinstance(value, Real) and not isinstance(value, bool)


def number(value: Any) -> float | None:
    """A finite number; None for anything else, truth values too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def labels(value: Any) -> dict[str, float | None]:
    """Labels that are numbers, or missing (null); others are not labels."""
    if not isinstance(value, dict):
        return {}
    numbers = {name: number(own) for name, own in value.items()}
    return {n: found for n, found in numbers.items() if found is not None or value[n] is None}
