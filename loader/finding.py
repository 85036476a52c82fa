"""One thing that the doctor looked at, and how a check that breaks or hangs becomes one."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shards.errors import DataError

State = Literal["ok", "warn", "fail"]

_PATIENCE_S = 15.0
_THREAD = "loader-doctor-"  # as names of threads begin
_MISFITS = (AttributeError, TypeError, KeyError, AssertionError)  # of packages, to each other
_TROUBLE = (OSError, RuntimeError, ImportError, ValueError, DataError, *_MISFITS)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``remedy`` is a command, or empty where nothing is wrong."""

    state: State
    subject: str
    text: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Check = Callable[[], Iterable[Finding]]


def survive(subject: str, check: Check, *, patience_s: float = _PATIENCE_S) -> list[Finding]:
    """What a check finds. One that breaks off, or hangs on a dead mount, is a finding itself.

    Args:
        subject: of that finding.
        patience_s: how long to wait; the thread that hangs is left behind.
    """
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check())
        except _TROUBLE as error:
            found.append(Finding("fail", subject, f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=run, name=f"{_THREAD}{subject}", daemon=True)
    thread.start()
    thread.join(patience_s)
    if thread.is_alive():
        return [*found, Finding("fail", subject, f"does not answer within {patience_s:.0f} s")]
    return found


def left_behind() -> bool:
    """Whether a check that did not answer in time is still at it."""
    return any(thread.name.startswith(_THREAD) for thread in threading.enumerate())
