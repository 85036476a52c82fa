"""Runs the work of a build on a Dask cluster, which is imported only then."""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from packer.carry import Carrier, Stop
from packer.encode import Encoded, Job
from packer.exchange import Batch, Cut, Exchange, Site, batches, cut_shard, encode_batch, versions
from packer.interrupt import interrupts_blocked
from packer.journal import BEGUN, Done
from packer.plan import Group
from packer.shard import Written
from packer.target import Target
from shards.errors import DataError, FetchError

LOCAL = "local"
_CONNECT_S, _WORKERS_S, _POLL_S = "10s", 60, 0.1
_LOOK_S = 30  # between looks at whether there are workers, while no task ends
_CUT_FIRST = 1  # priority: a group that is encoded makes room
_GO_ON = "the same command goes on where this one stops"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to a scheduler that has workers.

    Attributes:
        storage_options: with which workers open the target.
    """

    client: Any
    address: str
    storage_options: Mapping[str, Any]

    def as_completed(self, futures: Iterable[Any]) -> Iterator[Any]:
        """Futures as their tasks end.

        Raises:
            FetchError: if no worker is left to do them.
        """
        left = dict.fromkeys(futures)
        while left:
            try:
                for future in _distributed().as_completed(list(left), timeout=_LOOK_S):
                    del left[future]
                    yield future
            except TimeoutError:
                self.require_workers()

    def require_workers(self) -> None:
        """Raise FetchError if there are no workers, and none come for a while."""
        if self.client.scheduler_info()["workers"]:
            return
        try:
            self.client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError as error:
            raise FetchError(
                f"{self.address}: has no workers, waited for {_WORKERS_S} s; start some: dask "
                f"worker {self.address}; {_GO_ON}"
            ) from error

    def results(self, futures: Iterable[Any]) -> list[Any]:
        """What finished tasks returned.

        Raises:
            DataError: if a task failed, or workers died of it, or the scheduler went away.
        """
        from distributed import CancelledError, KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            return [future.result() for future in futures]
        except KilledWorker as error:
            raise DataError(
                f"{self.address}: workers died one after the other; out of memory? Start them "
                f"with fewer threads: {_GO_ON}"
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise FetchError(f"{self.address}: the scheduler went away; {_GO_ON}") from error
        except ImportError as error:
            message = f"{self.address}: {error}: install the same on all machines"
            raise FetchError(message) from error


@contextmanager
def connected(
    address: str, workers: int | None, storage_options: Mapping[str, Any] | None
) -> Iterator[Cluster]:
    """Connect to a scheduler, or start one here with a process a core.

    Args:
        address: such as ``tcp://10.0.0.1:8786``; or ``local``.
        workers: processes of a local one.
        storage_options: with which workers open the target.

    Raises:
        FetchError: if Dask is not installed, nothing answers or there are no workers.
        ValueError: if ``workers`` are given for a cluster that runs already.
    """
    if workers is not None and address != LOCAL:
        raise ValueError(
            f"the workers of {address} are those that were started there: leave workers out"
        )
    try:
        dask = _distributed()
    except ImportError as error:
        raise FetchError(f"--dask {address}: {error}: pip install '.[dask]'") from error
    with ExitStack() as stack:
        stack.enter_context(_silent(logging.getLogger("distributed")))
        if address == LOCAL:
            with interrupts_blocked():
                started = dask.LocalCluster(
                    n_workers=workers or len(os.sched_getaffinity(0)),
                    threads_per_worker=1,
                    dashboard_address=None,
                )
            stack.enter_context(started)
            client = stack.enter_context(dask.Client(started))
        else:
            client = stack.enter_context(_connect(dask.Client, address))
        cluster = Cluster(client, address, storage_options or {})
        cluster.require_workers()
        yield cluster


def _connect(client: Callable[..., Any], address: str) -> Any:
    try:
        with warnings.catch_warnings():  # versions are compared by each task
            warnings.filterwarnings("ignore", message="Mismatched versions")
            return client(address, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise FetchError(
            f"{address}: no Dask scheduler answers there ({error}); start one: dask scheduler"
        ) from error


def _distributed() -> Any:
    """The library, whose calls are not typed."""
    import distributed

    return distributed


@contextmanager
def _silent(log: logging.Logger) -> Iterator[None]:
    """Keep a library from telling what the errors raised here tell in short."""
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


class Crew:
    """The workers of a cluster as they make one dataset."""

    def __init__(self, cluster: Cluster, target: Target, *, stop: Stop, progress: bool) -> None:
        url = target.url if "://" in target.url else os.path.abspath(target.url)
        self._cluster, self._target = cluster, target
        self._stop, self._progress = stop, progress
        self._exchange = Exchange(url, cluster.storage_options)
        self._site = Site(url, cluster.storage_options, "", versions())
        self._found: set[str] = set()

    def begin(self, groups: Iterable[Sequence[Job]]) -> None:
        """Keep of what an earlier run encoded what is of use for the jobs of some groups."""
        self._site = replace(self._site, begun=self._target.sha256(BEGUN))
        self._found = self._exchange.batches()
        if self._found:
            wanted = {batch.name for jobs in groups for batch in batches(jobs)}
            self._exchange.remove(self._found - wanted)

    def encode(
        self, _group: Group, jobs: Sequence[Job], carrier: Carrier[Done]
    ) -> dict[int, tuple[Path, Encoded]]:
        """Encode the jobs of a group; batch and place in its file, by sample."""
        submit = self._cluster.client.submit
        made: dict[Any, Batch] = {}
        for batch in batches(jobs):
            known = batch.name in self._found
            made[submit(encode_batch, self._site, batch, begun_before=known, pure=False)] = batch
        found: dict[str, list[Encoded]] = {}
        with tqdm(total=len(jobs), unit=" recordings", disable=not self._progress) as bar:
            for future in self._cluster.as_completed(made):
                [places] = self._cluster.results([future])
                found[made[future].name] = places
                bar.update(len(made[future].jobs))
                carrier.check()
        in_order = ((batch.name, place) for batch in made.values() for place in found[batch.name])
        return {place.index: (Path(name), place) for name, place in in_order}

    def cut(
        self,
        shards: Sequence[tuple[int, ...]],
        encoded: Mapping[int, tuple[Path, Encoded]],
        *,
        first: int,
    ) -> list[Written]:
        """Cut shards, and put them into the target.

        Args:
            first: number of the first one.
        """
        futures = [
            self._cluster.client.submit(
                cut_shard,
                self._site,
                Cut(number, tuple((encoded[i][0].name, encoded[i][1]) for i in samples)),
                pure=False,
                priority=_CUT_FIRST,
            )
            for number, samples in enumerate(shards, first)
        ]
        while not all(future.done() for future in futures):
            self._cluster.require_workers()
            self._stop.pause(_POLL_S)
        return self._cluster.results(futures)

    def forget(self, encoded: Iterable[tuple[Path, Encoded]]) -> None:
        """Remove what was encoded and is in shards now."""
        self._exchange.remove({path.name for path, _ in encoded})
