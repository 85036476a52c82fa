"""A local file that is read patiently: a mount that is away for a while does not show."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from errno import ENOTCONN
from functools import partial
from pathlib import Path
from typing import TypeVar

from loader.patience import PATIENCE, Pause, retry, within
from shards.errors import ShardError
from shards.reader import LocalFile

Result = TypeVar("Result")


class PatientFile(LocalFile):
    """Reads again, through a new handle, what fails as mounts do; raises FetchError in the end.

    On a mount, a read that hangs is left behind, as ``patience.within`` does.
    """

    def __init__(self, path: Path, *, pause: Pause, mounted: bool) -> None:
        """Open a file.

        Args:
            pause: waits some seconds between attempts; may raise StoppedError.
            mounted: it lies on no disk of this machine.

        Raises:
            FileNotFoundError: if there is none.
            FetchError: if it cannot be opened after several attempts.
        """
        self._path, self._pause, self._mounted = path, pause, mounted
        self._lock = threading.Lock()
        opener = partial(self._watched, partial(_open, path), discard=_close)
        file, self._found = retry(opener, str(path), pause=pause)
        self.name, self.descriptor = file.name, file.descriptor
        self.size, self.inode = file.size, file.inode

    def read_at(self, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        got, size = 0, min(size, self.size - offset)
        while got < size:
            part = self._read(offset + got, min(size - got, PATIENCE.share_bytes))
            if not part:
                break
            parts.append(part)
            got += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        if not self._mounted:
            with suppress(OSError):  # what it was, the patient way will tell
                return super().read_into(buffer, offset)
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, offset: int, size: int) -> bytes:
        """Some of the bytes there, at least one unless the file ends."""
        failed = False

        def attempt() -> bytes:
            nonlocal failed
            if failed:
                self._reopen()
            failed = True
            return os.pread(self.descriptor, size, offset)

        return retry(partial(self._watched, attempt), self.name, pause=self._pause)

    def _watched(
        self,
        action: Callable[[], Result],
        *,
        discard: Callable[[Result], object] = lambda late: None,
    ) -> Result:
        return within(action, pause=self._pause, discard=discard) if self._mounted else action()

    def _reopen(self) -> None:
        """Read on through a new handle: those from before a mount was lost stay dead.

        Raises:
            ShardError: if another file lies there now.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:  # it was there: more likely its mount is gone
            raise OSError(ENOTCONN, f"{self._path} is gone; was it unmounted?") from error
        try:
            now, before = os.fstat(descriptor), self._found
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise ShardError(f"{self.name}: was replaced while it was read; begin anew")
            with self._lock:  # a reader that is closed meanwhile stays so
                if self.descriptor >= 0:
                    os.dup2(descriptor, self.descriptor, inheritable=False)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the file back; on a mount that hangs, without waiting for it."""
        if self._mounted:
            threading.Thread(target=self._close, name="loader-close", daemon=True).start()
        else:
            self._close()

    def _close(self) -> None:
        # the lock may be held for long on a mount, by a thread that opens the file anew
        with self._lock, suppress(OSError):  # of a file that was only read
            super().close()


def _open(path: Path) -> tuple[LocalFile, os.stat_result]:
    file = LocalFile(path)
    try:
        return file, os.fstat(file.descriptor)
    except BaseException:
        file.close()
        raise


def _close(late: tuple[LocalFile, os.stat_result]) -> None:
    with suppress(OSError):
        late[0].close()
