"""Tries again what fails as networks and mounts do, and waits for nothing for ever."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOENT, ETIMEDOUT
from functools import partial
from typing import Any, Generic, Self, TypeVar

from shards.errors import FetchError
from shards.retry import may_pass, network_errors, retry_after_s, status

_GONE = (404, 410)
_DENIED = (401, 403)
_POLL_S = 0.1

Result = TypeVar("Result")
Pause = Callable[[float], object]


@dataclass(slots=True)
class Patience:
    """How long the loader waits for what does not come.

    Attributes:
        attempts: in a row without a byte of progress, before it gives up.
        first_pause_s: between the first two; each further pause is twice as long.
        stall_s: no answer, or no byte, for so long is a failure. It counts for each
            ``share_bytes`` that are asked for at once.
        share_bytes: as many bytes come in ``stall_s`` over the slowest link that is waited for.
        longest_wait_s: the longest ``Retry-After`` of a server that is heeded.
        aside_s: while a reader's shard stalls for so long, other fetches go on.
        lapse_s: a cache that could not be written is left alone for so long.
    """

    attempts: int = 6
    first_pause_s: float = 0.5
    stall_s: float = 60.0
    share_bytes: int = 4 << 20
    longest_wait_s: float = 300.0
    aside_s: float = 5.0
    lapse_s: float = 60.0


PATIENCE = Patience()


def retry(
    action: Callable[[], Result],
    url: str,
    *,
    attempts: int | None = None,
    pause: Pause = time.sleep,
    progress: Callable[[], int] = lambda: 0,
) -> Result:
    """Run an action on a URL, again and with growing pauses while it fails as networks do.

    Args:
        attempts: None is ``PATIENCE.attempts``.
        pause: waits some seconds; may raise StoppedError.
        progress: bytes that are there by now; where they are more than ever, attempts are counted
            anew.

    Raises:
        FileNotFoundError: at once.
        FetchError: at once where it will not pass, such as access that is denied or a path that
            leads through a file, else after so many attempts.
    """
    failed, reached = 0, progress()
    while True:
        try:
            return action()
        except (IsADirectoryError, NotADirectoryError) as error:
            wrong = "a folder" if isinstance(error, IsADirectoryError) else "below a file"
            raise FetchError(
                f"{url}: is {wrong}; name a dataset's folder, its manifest.json or tars"
            ) from error
        except network_errors() as error:
            now = progress()
            failed, reached = 1 if now > reached else failed + 1, max(reached, now)
            wait_s = _wait_s(error, url, failed, attempts or PATIENCE.attempts)
        pause(wait_s)


def within(
    action: Callable[[], Result],
    *,
    size: int = 0,
    pause: Pause = time.sleep,
    discard: Callable[[Result], object] = lambda late: None,
) -> Result:
    """Run an action that may never return, such as a read of a mount that hangs.

    It runs in a thread of its own, which is left behind where it takes too long: the system alone
    can end such a read.

    Args:
        size: bytes that it asks for.
        pause: called with 0 now and then; may raise StoppedError.
        discard: what to do with a result that comes too late.

    Raises:
        TimeoutError: after ``PATIENCE.stall_s``, counted for each ``share_bytes``.
    """
    limit_s = PATIENCE.stall_s * max(1.0, size / PATIENCE.share_bytes)
    call = _Call(action, discard)
    threading.Thread(target=call.run, name="loader-io", daemon=True).start()
    end = time.monotonic() + limit_s
    try:
        while not call.done.wait(min(_POLL_S, limit_s)):
            pause(0)
            if time.monotonic() > end:
                raise TimeoutError(ETIMEDOUT, f"no byte came within {limit_s:g} s")
    except BaseException:
        call.leave()
        raise
    return call.result()


class WatchedFile:
    """A file of any file system, of which no call takes longer than the patience allows."""

    def __init__(self, opener: Callable[[], Any], *, pause: Pause) -> None:
        """Raise what ``opener`` raises, or TimeoutError."""
        self._pause, self._left = pause, False
        self._file: Any = within(opener, pause=pause, discard=_close)
        # of a local file one read of the system: what came before an error is not lost
        self._read = getattr(self._file, "read1", self._file.read)

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end of the file.

        Raises:
            TimeoutError: if none come.
        """
        try:
            data: bytes = within(partial(self._read, size), size=size, pause=self._pause)
        except BaseException:
            self._left = True
            raise
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        closing = threading.Thread(target=_close, args=(self._file,), daemon=True)
        closing.start()
        if not self._left:  # else it waits for the read that was left behind
            closing.join(PATIENCE.stall_s)


class _Call(Generic[Result]):
    """An action in a thread, its result, and who takes that."""

    def __init__(self, action: Callable[[], Result], discard: Callable[[Result], object]) -> None:
        self.done = threading.Event()
        self._action, self._discard = action, discard
        self._lock, self._is_left = threading.Lock(), False
        self._value: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value.append(self._action())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
            self._error = error
        with self._lock:
            self.done.set()
            late = self._value if self._is_left else []
        if late:
            self._discard(late[0])

    def leave(self) -> None:
        """Take nothing any more."""
        with self._lock:
            self._is_left = True
            late = self._value if self.done.is_set() else []
        if late:
            self._discard(late[0])

    def result(self) -> Result:
        if self._error is not None:
            error, self._error = self._error, None  # it holds the frames that hold this call
            raise error
        return self._value.pop()


def _close(file: Any) -> None:
    with suppress(OSError):  # it was only read
        file.__exit__(None, None, None)


def _wait_s(error: Exception, url: str, failed: int, attempts: int) -> float:
    """Seconds to wait after so many failures in a row.

    Raises:
        FileNotFoundError, FetchError: if it makes no sense to try again.
    """
    if _is_missing(error):
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), url) from error
    if isinstance(error, PermissionError) or status(error) in _DENIED:
        raise FetchError(f"{url}: access denied: {error}") from error
    asked_s = retry_after_s(error) or 0.0
    # fsspec says of a server that fails, too, that a file is not there
    passing = may_pass(error) or isinstance(error, FileNotFoundError)
    if not passing or failed >= attempts or asked_s > PATIENCE.longest_wait_s:
        times = f" {failed} times" if failed > 1 else ""
        raise FetchError(f"{url}: failed{times}: {_remedy(url, error, asked_s)}") from error
    return max(asked_s, PATIENCE.first_pause_s * float(2 ** (failed - 1)))


def _is_missing(error: Exception) -> bool:
    """Whether a file is not there; fsspec says so of web servers that fail, too."""
    if status(error) in _GONE:
        return True
    cause = error.__cause__
    failed = isinstance(cause, network_errors()) and (
        may_pass(cause) or status(cause) not in (None, *_GONE)
    )
    return isinstance(error, FileNotFoundError) and not failed


def _remedy(url: str, error: BaseException, asked_s: float) -> str:
    cause = error.__cause__ or error
    reason = f"{type(cause).__name__}: {cause}"
    if asked_s > PATIENCE.longest_wait_s:
        return f"{reason}. The server asks to come again in {asked_s:.0f} s"
    if "Credentials" in type(cause).__name__:
        return f"{reason}. Pass storage_options: key and secret, or anon=True for public data"
    if "/content/drive" in url:
        return f"{reason}. Is Drive mounted? drive.mount('/content/drive', force_remount=True)"
    return f"{reason}. Check the network and the server, then run again: what came is kept"
