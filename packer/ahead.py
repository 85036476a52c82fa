"""Encodes recordings whose sources lie on a mount, while those of the next are read there."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from packer.copies import Copies
from packer.encode import Encoded, Job
from packer.spool import encode_into

AHEAD_BYTES = 500 * 10**6  # copied while as many are encoded


@dataclass(frozen=True, slots=True)
class Copied:
    """A job, and the local copies of sources of it."""

    job: Job
    copies: Mapping[Path, Path]


class Run(Protocol):
    """Does a task for each of some jobs; yields the results in their order."""

    def __call__(
        self, task: Callable[[Copied], list[Encoded]], jobs: Sequence[Copied], /
    ) -> Iterator[list[Encoded]]: ...


def encode_ahead(
    jobs: Sequence[Job], copies: Copies, run: Run, *, ahead_bytes: int = AHEAD_BYTES
) -> Generator[list[Encoded]]:
    """Encode jobs into their spool files; what becomes of each, in order.

    A copy is removed as soon as no job needs it.

    Args:
        run: such as ``spread``.
        ahead_bytes: of copies for the jobs that follow, about.
    """
    uses = Counter(path for job in jobs for path in _sources(job))
    if copies.lacking(uses):
        ahead_bytes = min(ahead_bytes, copies.room() // 2)
    parts = _parts(jobs, copies, ahead_bytes)
    pool = ThreadPoolExecutor(copies.threads, thread_name_prefix="ahead")
    try:
        coming = _fetch(pool, copies, parts[:1])
        for number, part in enumerate(parts, 1):
            for future in coming:
                future.result()
            coming = _fetch(pool, copies, parts[number : number + 1])
            yield from run(encode_copied, [_copied(job, copies) for job in part])
            done = Counter(path for job in part for path in _sources(job))
            uses -= done
            copies.drop(path for path in done if path not in uses)
    finally:
        pool.shutdown(cancel_futures=True)


def encode_copied(copied: Copied) -> list[Encoded]:
    """Encode a job from copies; reasons name the sources."""
    job, copies = copied.job, copied.copies
    tasks = tuple(
        replace(
            task,
            audio=task.audio and copies.get(task.audio, task.audio),
            midi=task.midi and copies.get(task.midi, task.midi),
        )
        for task in job.tasks
    )
    places = encode_into(replace(job, tasks=tasks))
    for source, copy in copies.items():
        places = [
            replace(place, reason=place.reason.replace(str(copy), str(source))) for place in places
        ]
    return places


def _parts(jobs: Sequence[Job], copies: Copies, part_bytes: int) -> list[list[Job]]:
    """Jobs in parts, for each of which about so much is to be copied."""
    parts: list[list[Job]] = [[]]
    size, counted = 0, set[Path]()
    for job in jobs:
        lacking = copies.lacking(_sources(job) - counted)
        if parts[-1] and size + sum(lacking.values()) > part_bytes:
            parts.append([])
            size = 0
        parts[-1].append(job)
        size += sum(lacking.values())
        counted |= lacking.keys()
    return parts if jobs else []


def _fetch(
    pool: ThreadPoolExecutor, copies: Copies, parts: Sequence[Sequence[Job]]
) -> list[Future[None]]:
    """Begin to copy what parts lack, in order."""
    wanted = dict.fromkeys(path for part in parts for job in part for path in sorted(_sources(job)))
    return [pool.submit(copies.fetch, path) for path in copies.lacking(wanted)]


def _copied(job: Job, copies: Copies) -> Copied:
    at = {path: copies.at(path) for path in _sources(job)}
    return Copied(job, {path: copy for path, copy in at.items() if copy != path})


def _sources(job: Job) -> set[Path]:
    return {path for task in job.tasks for path in (task.audio, task.midi) if path is not None}
