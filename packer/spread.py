"""Spread a pure task over processes, with results in order and a progress bar."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from tqdm import tqdm

from packer.interrupt import insisted, interrupts_blocked
from packer.memory import keep_freed
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
    begun are finished first, unless a second interrupt comes. No process outlives this one.

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
    workers = min(_cores() if workers is None else workers, len(jobs))
    with tqdm(total=len(jobs), unit=f" {label}", disable=not progress) as bar:
        for result in _in_order(task, jobs, workers):
            bar.update()
            yield result


def _cores() -> int:
    """Those that this process may use, which in a container or job are not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(task: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    if workers <= 1:
        yield from map(task, jobs)
        return
    # Spawned, because a fork copies the locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(lifeline,)
    )
    try:
        try:
            with interrupts_blocked():
                results = pool.map(task, jobs)  # starts the processes
            yield from results
        except BrokenProcessPool as error:
            raise DataError("a worker process died; out of memory? use fewer --workers") from error
        finally:
            pool.shutdown(wait=not insisted(), cancel_futures=True)
    finally:  # wherever a second interrupt came; it ends the jobs that were begun
        held.close()
        lifeline.close()


def _begin(lifeline: Connection) -> None:
    """Prepare a worker; it ends with the other end of a pipe, by whatever that is closed."""
    keep_freed()

    def watch() -> None:
        wait([lifeline])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
