"""Finds the largest batch that fits: ``--auto_batch_size``."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule

from loader.machine import free_memory
from trainer.devices import uses_cuda
from trainer.memory import OutOfMemoryError, largest, shares
from trainer.trial import Step, resized, run_step

log = logging.getLogger(__name__)

_MOST = 4096
_ROOM = 0.9  # of a machine's free memory: what other programs may need


def batch_that_fits(
    model: LightningModule,
    batch: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    samples: int,
    wanted: int | None,
    ahead: int,
) -> tuple[int, int]:
    """Rows of the largest batch to train with, and how many such batches make a step.

    Args:
        model, batch, options, ahead: as for ``largest_batch``.
        samples: of an epoch, of which there are no more in a batch.
        wanted: rows of a step, which several batches may make up; None is as many as fit.

    Raises:
        OutOfMemoryError: not even one row fits.
    """
    most = min(_MOST, samples, wanted or _MOST)
    found = largest_batch(model, batch, options, most=most, ahead=ahead)
    return (found, 1) if wanted is None else shares(wanted, fitting=found)


def largest_batch(
    model: LightningModule,
    batch: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    most: int,
    ahead: int,
) -> int:
    """Rows of the largest batch that a training step has memory for.

    Args:
        batch: a real one, of any size; its rows are repeated.
        options: of Lightning's Trainer; see ``run_step``.
        most: rows that are never exceeded.
        ahead: batches that the loader makes meanwhile.

    Raises:
        OutOfMemoryError: not even one row fits.
    """
    free = 0 if uses_cuda(str(options["accelerator"])) else room(free_memory())

    def try_rows(rows: int) -> Step:
        return run_step(model, resized(batch, rows), options, ahead=ahead)

    found = most_rows(try_rows, most=most, free_bytes=free)
    if not found:
        raise OutOfMemoryError("not even a batch of one sample fits")
    return found


def most_rows(try_rows: Callable[[int], Step], *, most: int, free_bytes: int = 0) -> int:
    """Rows of the largest batch whose step fits; 0 if not even one row does.

    On a CPU a batch that is too large would end the process, so no batch is tried that would,
    by the steps tried before, need more than is free.

    Args:
        try_rows: runs a step of so many rows, or raises OutOfMemoryError.
        most: rows that are never exceeded.
        free_bytes: of a CPU, as ``room`` says; 0 on a GPU, where trying is safe.
    """
    peaks: dict[int, int] = {}

    def fits(rows: int) -> bool:
        if free_bytes and foreseen(peaks, rows) > free_bytes:
            log.warning("%d rows: more than the free memory", rows)
            return False
        try:
            step = try_rows(rows)
        except OutOfMemoryError:
            log.warning("%d rows: out of memory", rows)
            return False
        peaks[rows] = step.peak_bytes
        log.warning("%d rows: %.2f s, %.2f GB", rows, step.seconds, step.peak_bytes / 1e9)
        return True

    return largest(fits, most=most)


def room(free_bytes: int) -> int:
    """Bytes of a machine's free memory that a step may take; 0 where it is not known."""
    return round(_ROOM * free_bytes)


def foreseen(peaks: Mapping[int, int], rows: int, *, least: int = 0) -> int:
    """Bytes that a batch will need, by the line through the two largest that were tried.

    Args:
        peaks: bytes by rows, of the steps that were tried; of fewer than two nothing follows.
        least: bytes that a row takes in any case; small peaks drown in what else is allocated.
    """
    if len(peaks) < 2:
        return 0
    (less, low), (more, high) = sorted(peaks.items())[-2:]
    low, high = max(low, less * least), max(high, more * least)
    each = max((high - low) / (more - less), least)
    return round(high + each * (rows - more))
