"""The pipeline: batches in order, epoch after epoch, decoded ahead by threads."""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch.utils.data import IterableDataset, get_worker_info

from loader.ahead import ReadAhead
from loader.batch import Batch
from loader.decode import BatchDecoder
from loader.decoded import DecodedKeeper
from loader.device import Mover, Sent, make_mover
from loader.find import KeyFinder
from loader.machine import usable_cores
from loader.mixture import Mixture
from loader.order import Order
from loader.recipe import Recipe
from loader.settings import Settings
from loader.settle import Settling
from loader.skipped import SkipLog, Skipped
from loader.source import Source
from loader.state import State, resume_from
from loader.stats import Stats
from loader.steps import Places, Steps
from loader.store import ShardStore
from loader.threads import Threads
from loader.world import World, find_world, process_group, ranks_here, step_count

_AHEAD_BYTES = 2 * 10**9
_LAST_WAIT_S = 1.0


class Pipeline(IterableDataset[Batch]):
    """Batches of a dataset; made by ``make_pipeline``.

    Iterating yields one epoch; each ``iter()`` begins the epoch after the last one begun. One
    iterator lives at a time. Decoding happens in threads of this process, so it is used as it
    is or in ``DataLoader(pipe, num_workers=0, batch_size=None)``, never in worker processes.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        store: ShardStore,
        recipe: Recipe,
        settings: Settings,
        stats: Stats,
        *,
        fingerprint: str,
        weights: Sequence[float] | None = None,
        error_log: Path,
    ) -> None:
        """Start nothing yet: threads begin with the first iteration.

        Args:
            sources: datasets, already cut to the subset; one unless they are mixed.
            fingerprint: identity of the whole datasets.
            weights: of the sources in a mixture.
            error_log: where skipped samples are listed.
        """
        super().__init__()
        self._sources, self._store = tuple(sources), store
        self._recipe, self._settings, self._stats = recipe, settings, stats
        self._fingerprint, self._error_log = fingerprint, error_log
        self._weights = None if weights is None else tuple(weights)
        auto = settings.num_workers == "auto"
        self._settling = Settling(max(1, usable_cores() // ranks_here())) if auto else None
        most = self._settling.most if self._settling else int(settings.num_workers)
        self._decoder = BatchDecoder(
            store,
            recipe,
            stats,
            skip_errors=settings.on_error == "skip",
            with_source=weights is not None,
            keep_buffers=settings.prefetch + most + 2,
            pinned=settings.device is not None and settings.device.type == "cuda",
        )
        self._world: World | None = None
        self._mixture: Mixture | None = None
        self._next = (0, 0)  # epoch and position of the next iter()
        self._at = (0, 0)  # what was delivered
        self._iterator: _Epoch | None = None
        self._threads = Threads(most)
        if self._settling is not None:
            self._threads.limit(self._settling.number)
        self._fetched_bytes, self._process = 0, os.getpid()
        self._mover: Mover | None = None
        self._finalizer = weakref.finalize(self, _release, store, self._threads)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the columns of ``labels``, in order."""
        return self._recipe.dimensions

    @property
    def batches_left(self) -> int:
        """Batches that the next ``iter()`` gives on this rank, in the rest of a loaded epoch.

        0 is an epoch that was loaded at its end: then it gives a whole one, the next.
        """
        return self._steps(self._next[1])

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank; the same on every rank."""
        steps = self._steps(0)
        if not steps:
            size, world = self._settings.batch_size, self._find_world().size
            raise ValueError(
                f"an epoch has no batch: batch_size={size} * world_size={world} is more than the "
                f"{len(self._mix())} samples; lower batch_size or pass drop_last=False"
            )
        return steps

    def __iter__(self) -> Iterator[Batch]:
        """Begin the next epoch, or go on where a loaded state stands."""
        if get_worker_info() is not None:
            raise RuntimeError(
                "this pipeline decodes in threads of its own and cannot be split over DataLoader "
                "workers: use it directly, or DataLoader(pipe, num_workers=0, batch_size=None)"
            )
        self._require_usable()
        self._end_iterator()
        if self._store.keeps_decoded and self._threads.keeper is None:
            self._threads.keeper = DecodedKeeper(self._store, sample_rate=self._recipe.sample_rate)
        epoch, position = self._next
        if len(self) and not self._steps(position):
            epoch, position = epoch + 1, 0  # what a resumed epoch has left makes no batch
        self._at, self._next = (epoch, position), (epoch + 1, 0)
        self._iterator = _Epoch(self, epoch, position)
        return self._iterator

    def __getitem__(self, key: str | tuple[int, str]) -> dict[str, Any]:
        """One decoded sample by key, or by (source, key) in a mixture: a batch's row.

        Raises:
            KeyError: if there is none.
        """
        self._require_usable()
        source, name = key if isinstance(key, tuple) else (None, key)
        if not isinstance(name, str):
            raise KeyError(f"{key!r}: samples are asked by their key, a string")
        if source is None and self._weights is not None:
            raise KeyError(f"{name!r}: a mixture is asked by (source, key)")
        places = KeyFinder(self._sources, self._store).find(name, source or 0)
        mover = self._find_mover()
        decoded = self._decoder(places, epoch=self._at[0], size=1)
        batch = mover.receive(mover.send(decoded.batch))
        return {field: value[0] for field, value in batch.items()}

    def set_epoch(self, epoch: int) -> None:
        """Make the next ``iter()`` that of ``epoch``; a loaded position in it is kept.

        Raises:
            ValueError: if it is negative.
        """
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch must be a whole number from 0, got {epoch!r}")
        if epoch != self._next[0]:
            self._next = (epoch, 0)
        if self._iterator is None or self._iterator.ended:
            self._at = self._next

    def state_dict(self) -> dict[str, Any]:
        """What was delivered so far, as JSON: a later run goes on exactly here."""
        return self._state().to_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state stands, at the next ``iter()``.

        Rank, world size, batch size and the options of decoding may differ from the state's.

        Raises:
            StateError: if it belongs to other data or another order.
        """
        loaded = resume_from(state, self._state(), samples=len(self._mix()))
        self._end_iterator()
        self._mixture = self._make_mixture(loaded.streams)
        self._at = self._next = (loaded.epoch, loaded.position)

    def stats(self) -> dict[str, Any]:
        """Counts and times since the pipeline was made.

        ``samples``, ``batches``, ``samples_per_s``, ``wait_s`` (the consumer's waiting),
        ``fetched_bytes``, ``cache_hits``, ``skipped``, ``notes_left_out``, ``num_workers`` (the
        threads that decode now) and ``time_s`` by stage, summed over threads.
        """
        return self._stats.snapshot() | {"num_workers": self._threads.active_limit}

    def close(self) -> None:
        """End iteration, threads and open files. A closed pipeline cannot be used again."""
        self._end_iterator()
        self._store.stop()
        self._threads.join()
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _require_usable(self) -> None:
        """Raise RuntimeError if closed, or in the child of a fork, which has no threads."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "this pipeline was made before a fork, and its threads are in the other process: "
                "make it in the process that uses it"
            )
        if not self._finalizer.alive:
            raise RuntimeError("the pipeline is closed")

    def _find_world(self) -> World:
        """This process's rank, looked up once; a process group must agree with it ever after."""
        group = process_group()
        settings = self._settings
        if self._world is None:
            self._world = find_world(settings.rank, settings.world_size, group=group)
        elif settings.rank is None and group not in (None, (self._world.rank, self._world.size)):
            raise RuntimeError(
                f"the pipeline began as rank {self._world.rank} of {self._world.size}, but the "
                f"process group now says {group}: initialise it before the first len() or iter()"
            )
        return self._world

    def _find_mover(self) -> Mover:
        """The way to the device, which is looked up at the first batch."""
        self._mover = self._mover or make_mover(self._settings.device)
        return self._mover

    def _settle(self, seconds: float, waited_s: float) -> None:
        """Let a batch that was delivered have its say in the number of threads."""
        if self._settling is None or self._settling.settled:
            return
        fetched = self._stats.fetched_bytes
        disturbed = self._threads.keeping or fetched != self._fetched_bytes
        self._settling.observe(seconds=seconds, waited_s=waited_s, disturbed=disturbed)
        self._fetched_bytes = fetched
        self._threads.limit(self._settling.number)

    def _mix(self) -> Mixture:
        if self._mixture is None:
            self._mixture = self._make_mixture(self._find_world().nodes)
        return self._mixture

    def _make_mixture(self, streams: int) -> Mixture:
        seed, shuffle = self._settings.seed, self._settings.shuffle
        rows = [source.rows for source in self._sources]
        orders = [Order(r, seed=seed, shuffle=shuffle, streams=streams) for r in rows]
        return Mixture(orders, self._weights)

    def _state(self) -> State:
        settings = self._settings
        epoch, position = self._at
        return State(
            fingerprint=self._fingerprint,
            seed=settings.seed,
            shuffle=settings.shuffle,
            subset=settings.subset,
            mixture=self._weights,
            streams=self._mix().streams,
            epoch=epoch,
            position=position,
        )

    def _steps(self, position: int) -> int:
        """Steps that are left of an epoch from a position on."""
        return step_count(
            len(self._mix()) - position,
            batch_size=self._settings.batch_size,
            world=self._find_world(),
            drop_last=self._settings.drop_last,
        )

    def _end_iterator(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch on its way to the device: how many samples it holds, and which were skipped."""

    sent: Sent
    samples: int
    skipped: list[Skipped]


class _Epoch(Iterator[Batch]):
    """One pass, or the rest of one: ``prefetch`` batches under way, delivered in order."""

    def __init__(self, pipe: Pipeline, epoch: int, position: int) -> None:
        self._pipe, self._epoch = pipe, epoch
        world, mixture, settings = pipe._find_world(), pipe._mix(), pipe._settings
        self._steps = Steps(
            pipe._store,
            mixture,
            world,
            epoch=epoch,
            position=position,
            batch_size=settings.batch_size,
            steps=pipe._steps(position),
        )
        self._skip_log = SkipLog(
            pipe._error_log,
            world,
            epoch=epoch,
            samples=len(mixture),
            max_error_rate=settings.max_error_rate,
        )
        self._pending: deque[tuple[Future[_Ready], int]] = deque()
        self._mover = pipe._find_mover()
        self._delivered = 0.0
        self._ended = self._closed = False
        self._ahead = self._pipe._threads.ahead = self._read_ahead(world, mixture, position)

    @property
    def ended(self) -> bool:
        """Whether it gives no further batch."""
        return self._ended or self._closed

    def __next__(self) -> Batch:
        self._pipe._require_usable()
        if self._ended or not (self._closed or self._pending or self._steps.left):
            self._ended = True
            raise StopIteration
        if self._closed:
            raise RuntimeError("this iterator was ended by a newer one, or its pipeline closed")
        began = time.perf_counter()
        try:
            ready, position = self._take()
            self._pipe._stats.count("skipped", len(ready.skipped))
            self._skip_log.add(ready.skipped)
            batch = self._mover.receive(ready.sent)
        except BaseException:
            self.close()
            self._ended = True
            raise
        now = time.perf_counter()
        self._pipe._stats.delivered(ready.samples, now - began)
        self._pipe._settle(now - (self._delivered or began), now - began)
        self._delivered = now
        last = not self._pending and not self._steps.left
        self._pipe._at = (self._epoch + 1, 0) if last else (self._epoch, position)
        return batch

    def close(self) -> None:
        """Forget what is under way. A decoding thread ends the batch in its hands."""
        self._closed = True
        for future, _ in self._pending:
            future.cancel()
        self._pending.clear()
        if self._ahead is not None:
            self._ahead.stop()

    def _take(self) -> tuple[_Ready, int]:
        """The next batch, and the position after it; others are on their way then."""
        threads, steps = self._pipe._threads, self._steps
        if not threads.active_limit:
            return self._prepare(self._next_places()), steps.position
        ahead = max(self._pipe._settings.prefetch, threads.active_limit)
        while steps.left and len(self._pending) <= ahead:
            future = threads.submit(self._prepare, self._next_places())
            self._pending.append((future, steps.position))
        future, position = self._pending.popleft()
        return future.result(), position

    def _next_places(self) -> Places:
        places = next(self._steps)
        if self._ahead is not None:
            self._ahead.reached(self._steps.position)
        return places

    def _prepare(self, places: Places) -> _Ready:
        """Decode a batch and send it on its way to the device."""
        size = self._pipe._settings.batch_size
        decoded = self._pipe._decoder(places, epoch=self._epoch, size=size)
        return _Ready(self._mover.send(decoded.batch), decoded.samples, decoded.skipped)

    def _read_ahead(self, world: World, mixture: Mixture, position: int) -> ReadAhead | None:
        store = self._pipe._store
        if not store.fetches:
            return None
        alone = world.nodes == mixture.streams
        ahead_bytes = min(_AHEAD_BYTES, store.cache_bytes // 4)
        samples = int(ahead_bytes / max(1, store.mean_sample_bytes))
        return ReadAhead(
            store,
            self._pipe._make_mixture(mixture.streams),
            epoch=self._epoch,
            start=position,
            stream=world.rank // world.local_size if alone else None,
            horizon=samples * (mixture.streams if alone else 1),
        )


def _release(store: ShardStore, threads: Threads) -> None:
    """End what a pipeline started; runs once, on ``close`` or when it is garbage.

    It may run in any thread, a decoding one too; at the end of a program in the main one, which
    waits a moment, so that nothing is being decoded while the interpreter goes.
    """
    store.stop()
    threads.stop()
    if threading.current_thread() is threading.main_thread():
        threads.join(_LAST_WAIT_S)
    store.close()
