"""The learning rate over a run, as a pure function of the step."""

import math


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Factor of the learning rate: a rise to 1, then half a cosine down to 0.

    The first step is above 0, so that none is wasted; past the last it stays at 0.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
