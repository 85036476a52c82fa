"""Finds the largest batch that fits: ``--auto_batch_size``."""

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from loader.machine import free_memory
from trainer.devices import uses_cuda
from trainer.memory import OutOfMemoryError, largest
from trainer.trial import resized, run_step

log = logging.getLogger(__name__)

MOST = 4096
_ROOM = 0.9  # of a machine's free memory: what other programs may need


def largest_batch(
    model: LightningModule, batch: Mapping[str, Any], options: Mapping[str, Any], *, most: int
) -> int:
    """Rows of the largest batch that a training step has memory for.

    On a CPU a batch that is too large would end the process, so no batch is tried that would,
    by the steps tried before, need more than is free.

    Args:
        batch: a real one, of any size; its rows are repeated.
        options: of Lightning's Trainer; see ``run_step``.
        most: rows that are never exceeded.

    Raises:
        OutOfMemoryError: not even one row fits.
    """
    peaks: dict[int, int] = {}
    free = 0 if uses_cuda(str(options["accelerator"])) else round(_ROOM * free_memory())

    def fits(rows: int) -> bool:
        if free and _foreseen(peaks, rows) > free:
            log.warning("%d rows: more than the free memory", rows)
            return False
        try:
            step = run_step(model, resized(batch, rows), options)
        except OutOfMemoryError:
            log.warning("%d rows: out of memory", rows)
            return False
        peaks[rows] = step.peak_bytes
        log.warning("%d rows: %.2f s, %.2f GB", rows, step.seconds, step.peak_bytes / 1e9)
        return True

    found = largest(fits, most=most)
    if not found:
        raise OutOfMemoryError("not even a batch of one sample fits")
    return found


def _foreseen(peaks: Mapping[int, int], rows: int) -> int:
    """Bytes that a batch will need, by the line through the two largest that were tried."""
    if len(peaks) < 2:
        return 0
    (less, low), (more, high) = sorted(peaks.items())[-2:]
    return high + max(0, high - low) * (rows - more) // (more - less)
