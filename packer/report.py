"""What could not be packed: whether it is too much, and how it is told."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.errors import AnnotationError
from shards.schema import Rejection

_SHOWN = 10  # rejections that an error message lists


@dataclass(slots=True)
class Report:
    """What could not be packed, and how much of that is too much."""

    annotations: Path
    total: int
    max_rejected: float
    rejected: list[Rejection]

    def check(self) -> None:
        """Raise AnnotationError if more was rejected than is allowed."""
        if len(self.rejected) <= self.max_rejected * self.total:
            return
        first = sorted(self.rejected, key=lambda rejection: rejection.line)[:_SHOWN]
        listed = [f"{self.annotations}:{r.line}: {r.reason}" for r in first]
        if len(self.rejected) > len(first):
            listed.append(f"... and {len(self.rejected) - len(first)} more")
        raise AnnotationError(
            f"{len(self.rejected)} of {self.total} annotations cannot be packed:\n  "
            + "\n  ".join(listed)
            + f"\nmend them, or leave them out with --max-rejected {_percent(self)}"
        )

    def lines(self) -> bytes:
        """JSON lines of all rejections, in order."""
        ordered = sorted(self.rejected, key=lambda rejection: rejection.line)
        return "".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in ordered).encode()


def _percent(report: Report) -> str:
    """The share that would have to be allowed, rounded up to whole percents."""
    return f"{math.ceil(100 * len(report.rejected) / report.total)}%"
