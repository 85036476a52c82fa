"""What could not be packed: whether it is too much, and how it is told."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from shards.errors import AnnotationError
from shards.faults import FATAL, REMEDIES, Rejection

_SHOWN = 10  # rejections that an error message lists
_ROUNDING = 1e-6  # of an annotation: 0.29 of 100 is a little less than 29


@dataclass(slots=True)
class Report:
    """What could not be packed, and how much of that is too much.

    Attributes:
        total: number of annotations.
        max_rejected: share that may be left out; None where that is no choice.
        unfit: what those that are listed are, in words.
    """

    annotations: Path
    total: int
    max_rejected: float | None
    rejected: list[Rejection]
    unfit: str = "annotations cannot be packed"

    @property
    def left_out(self) -> int:
        """Number of annotations of which something cannot be packed."""
        return len({rejection.line for rejection in self.rejected})

    @property
    def is_fatal(self) -> bool:
        """Whether something is wrong that no share of the annotations may be left out for."""
        return any(rejection.kind in FATAL for rejection in self.rejected)

    def check(self, listed: str | None = None) -> None:
        """Raise AnnotationError if more was rejected than is allowed.

        Args:
            listed: where all of it is listed, beside a dataset that holds the rest.
        """
        allowed = (self.max_rejected or 0.0) * self.total + _ROUNDING
        if not self.is_fatal and self.left_out <= allowed:
            return
        strict = self.is_fatal or self.max_rejected is None
        raise AnnotationError(
            f"{self.left_out} of {self.total} {self.unfit}:\n{self._told()}"
            + (
                f"\n{listed} lists them all, and the dataset beside it holds the rest"
                if listed
                else ""
            )
            + ("\nmend them and build with --overwrite," if listed else "")
            + ("" if strict else f"\nor leave them out with --max-rejected {_percent(self)}")
        )

    def refuse_all(self) -> NoReturn:
        """Raise AnnotationError, as nothing is left, whatever share may be left out."""
        raise AnnotationError(
            f"{self.annotations}: none of its annotations can be packed:\n{self._told()}"
        )

    def _told(self) -> str:
        """The first lines that were rejected, and what mends each kind of fault."""
        first = sorted(self.rejected, key=lambda rejection: rejection.line)[:_SHOWN]
        lines = [f"  {self.annotations}:{r.line}: {r.reason}" for r in first]
        if len(self.rejected) > len(first):
            lines.append(f"  ... and {len(self.rejected) - len(first)} more")
        return "\n".join([*lines, *by_kind(self.rejected)])

    def lines(self) -> bytes:
        """JSON lines of all rejections, in order."""
        ordered = sorted(self.rejected, key=lambda rejection: rejection.line)
        return "".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in ordered).encode()


def by_kind(rejected: Sequence[Rejection]) -> list[str]:
    """How many there are of each kind of fault, most frequent first, and what mends it."""
    kinds = Counter(rejection.kind for rejection in rejected)
    return [f"{kind} ({count}): {REMEDIES[kind]}" for kind, count in kinds.most_common()]


def _percent(report: Report) -> str:
    """The share that would have to be allowed, rounded up to whole percents."""
    return f"{math.ceil(100 * report.left_out / report.total)}%"
