"""Does again what fails as networks and mounts do, and tells it from what is wrong for good."""

import errno
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Result = TypeVar("Result")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
PATIENCE_S = 300.0

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ENOTCONN", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "EINTR"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ENETDOWN", "ENETRESET", "ENETUNREACH", "ENODEV", "ENXIO", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)
_PASSING_STATUS = frozenset({408, 425, 429})
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError)

# what HTTP and object-store clients raise that is no OSError; looked up only once they are loaded
_BROKEN_OFF = (("aiohttp", "ClientPayloadError"),)  # its cause has a status of its own making
_PASSING_CLIENT = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("google.auth.exceptions", "TransportError"),
    ("httpx", "TransportError"),
    ("httpx2", "TransportError"),
)
_CLIENT = (
    *_PASSING_CLIENT,
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
)


def retry(
    action: Callable[[], Result],
    *,
    patience_s: float | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> Result:
    """Run an action, again and with growing pauses while it fails as networks and mounts do.

    Args:
        patience_s: seconds after the first failure when it is given up; None is PATIENCE_S.
        pause: waits some seconds; may raise, to end it.

    Raises:
        Exception: of ``network_errors()``: at once if it will not pass, else the last one.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    failing_since: float | None = None
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return action()
        except network_errors() as error:
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            if not may_pass(error) or now + pause_s > failing_since + patience_s:
                raise
        pause(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def network_errors() -> tuple[type[Exception], ...]:
    """What reading or writing a URL may raise."""
    return OSError, EOFError, *_loaded(_CLIENT)


def may_pass(error: Exception) -> bool:
    """Whether an error of ``network_errors()`` may be gone in a while."""
    if isinstance(error, tuple(_loaded(_BROKEN_OFF))):
        return True
    if (found := status(error)) is not None:
        return found in _PASSING_STATUS or found >= 500
    if isinstance(error, (EOFError, TimeoutError, ConnectionError, *_loaded(_PASSING_CLIENT))):
        return True
    if not isinstance(error, OSError) or isinstance(error, (*_FINAL, ValueError)):
        return False
    return error.errno is None or error.errno in _PASSING


def status(error: BaseException) -> int | None:
    """HTTP status of an error, of the answer that it holds, or of its cause."""
    for found in (error, getattr(error, "response", None), error.__cause__):
        for name in ("status", "status_code", "code"):
            if isinstance(value := getattr(found, name, None), int):
                return value
    return None


def retry_after_s(error: BaseException) -> float | None:
    """Seconds that a server asks to be left alone (``Retry-After``), where its answer says so.

    Only whole seconds count: a date would have to be compared with a clock, which may be wrong.
    """
    for found in (error, getattr(error, "response", None), error.__cause__):
        headers = getattr(found, "headers", None)
        if isinstance(found, dict):  # botocore's answers
            headers = found.get("ResponseMetadata", {}).get("HTTPHeaders")
        value = _header(headers, "retry-after")
        if value.isascii() and value.isdigit():
            return float(value)
    return None


def _header(headers: object, name: str) -> str:
    if not isinstance(headers, Mapping):
        return ""
    return next((str(v).strip() for k, v in headers.items() if str(k).lower() == name), "")


def _loaded(names: tuple[tuple[str, str], ...]) -> Iterator[type[Exception]]:
    for module, name in names:
        if module in sys.modules:
            yield getattr(sys.modules[module], name)
