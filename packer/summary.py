"""Statistics of labels over packed samples."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple

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


def alike(one: LabelStats, two: LabelStats) -> bool:
    """Whether statistics are the same but for rounding: those of parts are sums of sums."""
    return all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
        for a, b in zip(astuple(one), astuple(two), strict=True)
    )


def pooled(parts: Collection[LabelStats]) -> LabelStats:
    """Statistics over several sets of samples together."""
    known = [stats for stats in parts if stats.count]
    if not known:
        return _stats([])
    count = sum(stats.count for stats in known)
    mean = math.fsum(stats.count * stats.mean for stats in known) / count
    squares = (stats.count * (stats.std**2 + (stats.mean - mean) ** 2) for stats in known)
    least, most = min(stats.min for stats in known), max(stats.max for stats in known)
    return LabelStats(count, least, most, mean, math.sqrt(math.fsum(squares) / count))


def _stats(values: list[float]) -> LabelStats:
    if not values:
        return LabelStats(0, 0.0, 0.0, 0.0, 0.0)
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return LabelStats(len(values), min(values), max(values), mean, math.sqrt(variance))
