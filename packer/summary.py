"""Statistics of labels over packed samples."""

import math
from collections.abc import Iterable, Sequence

from shards.manifest import LabelStats


def label_stats(
    names: Sequence[str], labels: Iterable[dict[str, float | None]]
) -> dict[str, LabelStats]:
    """Statistics of each label, in the order of the names; those of none are zeros."""
    values: dict[str, list[float]] = {name: [] for name in names}
    for sample in labels:
        for name in names:
            if (value := sample.get(name)) is not None:
                values[name].append(value)
    return {name: _stats(found) for name, found in values.items()}


def _stats(values: list[float]) -> LabelStats:
    if not values:
        return LabelStats(0, 0.0, 0.0, 0.0, 0.0)
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return LabelStats(len(values), min(values), max(values), mean, math.sqrt(variance))
