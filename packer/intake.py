"""What is asked of a build's sources, and which samples are made of the lines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packer.segments import SHORTEST_S

_NOTED = {"whole", "segment_s", "hop_s"}


@dataclass(frozen=True, slots=True)
class Intake:
    """Which samples are made of the annotations, and what is asked of their sources.

    Attributes:
        whole: take whole recordings, one sample each, whatever segment a line names.
        segment_s: cut what a line names into windows of so many seconds; None leaves it.
        hop_s: seconds from window to window; None is ``segment_s``.
        subset: take only so many samples, those of the smallest SHA-256 of their keys.
        tolerance_s: by how much MIDI may outlast its recording. A recording may also ring on for
            2 s and a twentieth of its length.
        io_threads: files opened at a time.
    """

    whole: bool = False
    segment_s: float | None = None
    hop_s: float | None = None
    subset: int | None = None
    tolerance_s: float = 0.5
    io_threads: int = 16

    def __post_init__(self) -> None:
        for name in ("segment_s", "hop_s", "subset", "io_threads"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if self.hop_s is not None and self.segment_s is None:
            raise ValueError("hop_s is given without segment_s: there is nothing to cut")
        if min(self.segment_s or 1, self.hop_s or 1) < SHORTEST_S:
            raise ValueError(f"segment_s and hop_s must be at least {SHORTEST_S}")
        if not 0 <= self.tolerance_s < math.inf:
            raise ValueError(f"tolerance_s must be at least 0 and finite, got {self.tolerance_s}")

    @property
    def noted(self) -> dict[str, Any]:
        """How lines become samples, for a manifest: what is chosen of it."""
        given = {name: getattr(self, name) for name in _NOTED}
        return {name: value for name, value in given.items() if value}

    def as_noted(self, options: Mapping[str, Any]) -> "Intake":
        """With what a manifest's options note, unless something is chosen here."""
        return (
            self
            if self.noted
            else replace(self, **{n: options[n] for n in _NOTED & options.keys()})
        )
