"""Spread a pure task over processes, with results in order and a progress bar."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from shards.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(
    task: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    label: str = "",
    progress: bool = True,
) -> Iterator[Result]:
    """Yield ``task(job)`` for every job, in order of the jobs.

    An error of a task, an interrupt, or a closed iterator drops the jobs not yet begun; those
    begun are finished first.

    Args:
        task: a function of a module, as processes need to find it by name.
        jobs: picklable arguments.
        workers: processes; None takes one a core, 1 or fewer stays in this process.
        label: what the progress bar counts, such as ``files``.
        progress: False draws no bar.

    Raises:
        ValueError: if ``workers`` is negative.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(jobs))
    with tqdm(total=len(jobs), unit=f" {label}", disable=not progress) as bar:
        for result in _in_order(task, jobs, workers):
            bar.update()
            yield result


def _in_order(task: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    if workers <= 1:
        yield from map(task, jobs)
        return
    # Spawned, because a fork copies the locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts)
    try:
        yield from pool.map(task, jobs)
    except BrokenProcessPool as error:
        raise DataError("a worker process died; out of memory? use fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Leave Ctrl-C to the parent, so that a file begun is a file finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
