"""MIDI files as segments are cut out of them."""

from pathlib import Path
from typing import Any

from packer.patience import patiently
from shards.errors import DecodeError
from shards.notes import end_time, parse_midi


class Scores:
    """MIDI files, of which the last one is held: the segments of a recording mostly share it."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._held: tuple[bytes, Any, float] = (b"", None, 0.0)

    def read(self, path: Path) -> tuple[bytes, Any, float]:
        """A file's bytes, its score, and the seconds at which its last note ends.

        Raises:
            DecodeError: if it cannot be read or parsed.
            FetchError: if its disk or mount is away.
        """
        if path != self._path:
            try:
                data = patiently(path, path.read_bytes)
                score = parse_midi(data)
            except (OSError, DecodeError) as error:
                raise DecodeError(f"{path}: {error}") from error
            self._held, self._path = (data, score, end_time(score)), path
        return self._held
