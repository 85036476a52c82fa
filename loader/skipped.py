"""Samples that could not be decoded and were skipped: counted, listed, and allowed only so far."""

import json
import logging
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
    """The skipped samples of one epoch on this rank."""

    def __init__(
        self, path: Path, world: World, *, epoch: int, samples: int, max_error_rate: float
    ) -> None:
        """Open nothing yet.

        Args:
            path: where they are listed; each rank of several has a file of its own beside it.
            samples: of the epoch on all ranks, of which ``max_error_rate`` may be skipped.
        """
        rank = f"-rank{world.rank}" if world.size > 1 else ""
        self._path = path.with_stem(path.stem + rank)
        self._epoch, self._ranks = epoch, world.size
        self._rate, self._allowed = max_error_rate, max_error_rate * samples
        self._count = 0

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
        if self._count * self._ranks > self._allowed:
            raise DecodeError(
                f"{self._count} samples could not be decoded, more than "
                f"max_error_rate={self._rate} of the epoch; the last: {skipped[-1].reason}. "
                f"All are listed in {self._path}"
            )
