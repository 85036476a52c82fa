"""Many strings in two arrays: they take little more memory than their text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

_CODEC = ("utf-8", "surrogatepass")  # whatever JSON can hold


@dataclass(frozen=True, slots=True, eq=False)
class Strings:
    """Strings end to end.

    Attributes:
        text: (bytes,) uint8, their UTF-8.
        ends: (N,) int64, where each one ends in ``text``.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Raise ValueError if the two do not fit each other."""
        if self.text.dtype != np.uint8 or self.ends.dtype != np.int64:
            raise ValueError(f"strings of {self.text.dtype} and {self.ends.dtype}")
        if self.text.ndim != 1 or self.ends.ndim != 1:
            raise ValueError("strings are arrays of one dimension")
        last = int(self.ends[-1]) if len(self.ends) else 0
        if np.any(np.diff(self.ends, prepend=0) < 0) or last != len(self.text):
            raise ValueError(f"strings end at {last} of {len(self.text)} bytes")

    @classmethod
    def of(cls, strings: Iterable[str]) -> Self:
        encoded = [string.encode(*_CODEC) for string in strings]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum(sizes))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        """The string of a number in [0, N)."""
        start = int(self.ends[number - 1]) if number else 0
        return self.text[start : int(self.ends[number])].tobytes().decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        text, start = self.text.tobytes(), 0
        for end in self.ends.tolist():
            yield text[start:end].decode(*_CODEC)
            start = end
