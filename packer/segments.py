"""Cuts recordings into windows of equal length. Pure."""

_SLACK_S = 1e-6  # lengths are quotients of integers


def windows(
    start_s: float, end_s: float, *, seconds: float, hop_s: float
) -> list[tuple[float, float]]:
    """(start, end) of windows of ``seconds`` each, ``hop_s`` apart, to the millisecond.

    What is left over at the end becomes a shorter window if it has at least half the length: the
    loader pads it. Less than that is left out.
    """
    found: list[tuple[float, float]] = []
    number = 0
    while True:
        start = round(start_s + number * hop_s, 3)
        end = min(round(start + seconds, 3), end_s)
        if end - start < seconds / 2 - _SLACK_S:
            return found
        found.append((start, end))
        if start + seconds >= end_s - _SLACK_S:
            return found
        number += 1
