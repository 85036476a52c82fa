"""Reads sources with patience: a mount that is away for a while is no fault of a file."""

import time
from collections.abc import Callable
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from packer.interrupt import interrupted
from shards.errors import FetchError
from shards.retry import may_pass, retry

Result = TypeVar("Result")

_SLICE_S = 0.2  # between looks at whether an interrupt came


def patiently(path: Path, read: Callable[[], Result]) -> Result:
    """``read`` a source, again while that fails as mounts do.

    Raises:
        FetchError: if it fails so until ``retry`` gives up.
        OSError: if it fails in another way.
    """
    try:
        return retry(read, pause=_pause)
    except OSError as error:
        if not may_pass(error):
            raise
        raise FetchError(
            f"{path}: cannot be read: {error.strerror}; see to its disk or mount and run the same "
            "command again: it goes on where it stopped"
        ) from error


class PatientFile(FileIO):
    """A source, opened and read patiently; ``readinto`` gives all that is asked for or the rest."""

    def __init__(self, path: Path) -> None:
        """Raise FetchError or OSError, as ``patiently`` does."""
        self._path = path
        patiently(path, partial(super().__init__, path))

    def readinto(self, buffer: Any) -> int:
        """Raise FetchError or OSError, as ``patiently`` does."""
        view, got, read = memoryview(buffer).cast("B"), 0, super().readinto
        while got < len(view) and (more := patiently(self._path, partial(read, view[got:]))):
            got += more
        return got

    def read_at(self, offset: int, count: int) -> bytes:
        """So many bytes from an offset on, or the rest; raises as ``readinto`` does."""
        self.seek(offset)
        data = bytearray(count)
        return bytes(data[: self.readinto(data)])


def _pause(seconds: float) -> None:
    """Wait, unless an interrupt came."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if interrupted():
            raise KeyboardInterrupt
        time.sleep(min(left, _SLICE_S))
