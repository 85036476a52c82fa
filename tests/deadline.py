"""A deadline for what would wait for ever, if what it tests were not there."""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def in_time(action: Callable[[], Result], *, seconds: float = 30.0) -> Result:
    """What an action returns or raises; a test fails where it takes longer, instead of hanging."""
    found: list[Result] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(action())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"it goes on after {seconds:g} s"
    if raised:
        raise raised[0]
    return found[0]
