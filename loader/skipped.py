"""Samples that could not be decoded and were skipped: counted, listed, and allowed only so far."""

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from loader.world import World
from shards.errors import DecodeError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that could not be decoded."""

    key: str
    shard: str
    reason: str


class SkipLog:
    """The skipped samples of one pass over an epoch, or over the rest of one, on this rank.

    A rank sees its own alone. It raises when those are more than ``most_skipped``: the share of
    its own part of the epoch that may be skipped, and what chance may bring to one part.
    """

    def __init__(
        self, path: Path, world: World, *, epoch: int, samples: int, max_error_rate: float
    ) -> None:
        """Open nothing yet.

        Args:
            path: where they are listed; each rank of several has a file of its own beside it.
            samples: of the epoch on all ranks.
            max_error_rate: share of them that may be skipped.
        """
        rank = f"-rank{world.rank}" if world.size > 1 else ""
        self._path = path.with_stem(path.stem + rank)
        self._epoch, self._rate, self._count = epoch, max_error_rate, 0
        self._allowed = most_skipped(max_error_rate, samples=samples, ranks=world.size)

    def add(self, skipped: list[Skipped]) -> None:
        """List some.

        Raises:
            DecodeError: if they are too many by now.
        """
        if not skipped:
            return
        lines = [json.dumps(asdict(sample) | {"epoch": self._epoch}) + "\n" for sample in skipped]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            log.warning("%s cannot be written: %s. Skipped: %s", self._path, error, "".join(lines))
        self._count += len(skipped)
        if self._count > self._allowed:
            raise DecodeError(
                f"{self._count} samples could not be decoded, more than "
                f"max_error_rate={self._rate} allows; the last: {skipped[-1].reason}. "
                f"All are listed in {self._path}"
            )


def most_skipped(rate: float, *, samples: int, ranks: int) -> float:
    """How many samples a rank may skip: ``rate`` of its part of the epoch, and three deviations.

    Damage that is spread by chance brings to one part as many more as that, of a Poisson count,
    once in a thousand parts; without them, samples that lie together would end larger worlds
    alone. No rank may skip more than ``rate`` of the whole epoch: of one rank, that is the limit.

    Args:
        rate: share of an epoch that may be skipped, in [0, 1].
        samples: of the whole epoch.
        ranks: that share it, in equal parts.
    """
    expected = rate * samples / ranks
    return min(rate * samples, expected + 3 * math.sqrt(expected))
