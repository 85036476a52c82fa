"""An fsspec filesystem over local files on which a share of all operations goes wrong."""

import errno
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

STALL_S = 0.3
_ERRORS = {
    "EIO": OSError(errno.EIO, "Input/output error"),
    "ENOTCONN": OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
    "reset": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "timeout": TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
}
# what no manifest tells to be wrong is not spoilt: a manifest is what the hashes stand in
_SPOILT = ("short", "flip", "stall")

faults: Counter[str] = Counter()  # of this process, by kind


class FlakyFileSystem(LocalFileSystem):
    """``flaky:///path``: local files that do not count as local.

    Opening, reading and asking fail, stall or give damaged bytes at a rate.
    """

    protocol = "flaky"
    cachable = False

    def __init__(self, *, rate: float = 0.05, **options: Any) -> None:
        """Take the share of operations that go wrong, in [0, 1]."""
        super().__init__(**options)
        self._rate, self._chance = rate, random.Random()

    @classmethod
    def _strip_protocol(cls, path: str) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("flaky://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"flaky://{name}"

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self.raise_at_times()
        found: dict[str, Any] = super().info(path, **options)
        return found

    def open(self, path: str, mode: str = "rb", **options: Any) -> "FlakyFile":
        self.raise_at_times()
        return FlakyFile(Path(self._strip_protocol(path)).open("rb"), self)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        self.raise_at_times()
        return Path(self._strip_protocol(path)).read_bytes()[start:end]

    def raise_at_times(self) -> None:
        """Fail as networks and mounts do."""
        if (kind := self._draw(tuple(_ERRORS))) is not None:
            raise _ERRORS[kind].with_traceback(None)

    def spoil_at_times(self, data: bytes) -> bytes:
        """Bytes as they came, late, cut short, or with a bit flipped."""
        kind = self._draw(_SPOILT) if data else None
        if kind == "stall":
            time.sleep(STALL_S)
        elif kind == "short":
            return b""
        elif kind == "flip":
            place = self._chance.randrange(len(data))
            return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        return data

    def _draw(self, kinds: tuple[str, ...]) -> str | None:
        if self._chance.random() >= self._rate:
            return None
        kind = self._chance.choice(kinds)
        faults[kind] += 1
        return kind


class FlakyFile:
    """A file that is read from front to end, and fails now and then."""

    def __init__(self, file: BinaryIO, system: FlakyFileSystem) -> None:
        self._file, self._system = file, system

    def __enter__(self) -> "FlakyFile":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def read(self, size: int) -> bytes:
        self._system.raise_at_times()
        return self._system.spoil_at_times(self._file.read(size))


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
