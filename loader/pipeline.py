"""The pipeline: batches in order, epoch after epoch, decoded ahead by threads."""

import json
import os
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import IterableDataset, get_worker_info

from loader.ahead import ReadAhead
from loader.batch import Batch
from loader.decode import BatchDecoder, Decoded, Places, find_places
from loader.decoded import DecodedKeeper
from loader.find import KeyFinder
from loader.mixture import Mixture
from loader.order import Order
from loader.recipe import Recipe
from loader.settings import Settings
from loader.source import Source
from loader.state import State, resume_from
from loader.stats import Stats
from loader.store import ShardStore
from loader.threads import Threads
from loader.world import World, find_world, step_count, step_positions
from shards.errors import DecodeError
from shards.pcm import INT16_SCALE

_AHEAD_BYTES = 2 * 10**9


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
        self._decoder = BatchDecoder(
            store,
            recipe,
            stats,
            skip_errors=settings.on_error == "skip",
            with_source=weights is not None,
            keep_buffers=settings.prefetch + settings.num_workers + 2,
        )
        self._world: World | None = None
        self._mixture: Mixture | None = None
        self._next = (0, 0)  # epoch and position of the next iter()
        self._at = (0, 0)  # what was delivered
        self._iterator: _Epoch | None = None
        self._threads = Threads(settings.num_workers)
        self._process = os.getpid()
        self._finalizer = weakref.finalize(self, _release, store, self._threads)

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
        if source is None and self._weights is not None:
            raise KeyError(f"{name!r}: a mixture is asked by (source, key)")
        places = KeyFinder(self._sources, self._store).find(name, source or 0)
        decoded = self._decoder(places, epoch=self._at[0], size=1)
        batch = _to_device(decoded.batch, self._settings.device)
        return {field: value[0] for field, value in batch.items()}

    def set_epoch(self, epoch: int) -> None:
        """Make the next ``iter()`` that of ``epoch``; a loaded position in it is kept.

        Raises:
            ValueError: if it is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if epoch != self._next[0]:
            self._next = (epoch, 0)
        if self._iterator is None or self._iterator.ended:
            self._at = self._next

    def state_dict(self) -> dict[str, Any]:
        """What was delivered so far, as JSON: what a later run needs to go on exactly here."""
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
        ``fetched_bytes``, ``cache_hits``, ``skipped``, ``notes_left_out``, and ``time_s`` by
        stage, summed over threads.
        """
        return self._stats.snapshot()

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
        group = _process_group()
        settings = self._settings
        if self._world is None:
            self._world = find_world(settings.rank, settings.world_size, group=group)
        elif settings.rank is None and group not in (None, (self._world.rank, self._world.size)):
            raise RuntimeError(
                f"the pipeline began as rank {self._world.rank} of {self._world.size}, but the "
                f"process group now says {group}: initialise it before the first len() or iter()"
            )
        return self._world

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


class _Epoch(Iterator[Batch]):
    """One pass, or the rest of one: ``prefetch`` batches under way, delivered in order."""

    def __init__(self, pipe: Pipeline, epoch: int, position: int) -> None:
        self._pipe, self._epoch = pipe, epoch
        self._world, self._mixture = pipe._find_world(), pipe._mix()
        self._step_size = pipe._settings.batch_size * self._world.size
        self._submitted = position
        self._steps = pipe._steps(position)
        self._pending: deque[tuple[Future[Decoded], int]] = deque()
        self._allowed_skips = pipe._settings.max_error_rate * len(self._mixture)
        self._skipped = 0
        self._ended = self._closed = False
        self._ahead = self._pipe._threads.ahead = self._read_ahead(position)

    @property
    def ended(self) -> bool:
        """Whether it gives no further batch."""
        return self._ended or self._closed

    def __next__(self) -> Batch:
        self._pipe._require_usable()
        if self._ended or not (self._closed or self._pending or self._steps):
            self._ended = True
            raise StopIteration
        if self._closed:
            raise RuntimeError("this iterator was ended by a newer one, or its pipeline closed")
        began = time.perf_counter()
        try:
            decoded, position = self._take()
            self._note_skipped(decoded)
            batch = _to_device(decoded.batch, self._pipe._settings.device)
        except BaseException:
            self.close()
            self._ended = True
            raise
        self._pipe._stats.delivered(decoded.samples, time.perf_counter() - began)
        last = not self._pending and not self._steps
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

    def _take(self) -> tuple[Decoded, int]:
        """The next batch, and the position after it; ``prefetch`` others are on their way then."""
        settings = self._pipe._settings
        if not settings.num_workers:
            return self._decode(self._places()), self._submitted
        while self._steps and len(self._pending) <= settings.prefetch:
            future = self._pipe._threads.submit(self._decode, self._places())
            self._pending.append((future, self._submitted))
        future, position = self._pending.popleft()
        return future.result(), position

    def _places(self) -> Places:
        """Where the samples of the next step lie."""
        positions = step_positions(
            self._submitted,
            len(self._mixture),
            batch_size=self._pipe._settings.batch_size,
            world=self._world,
            streams=self._mixture.streams,
        )
        self._submitted += self._step_size
        self._steps -= 1
        if self._ahead is not None:
            self._ahead.reached(self._submitted)
        return find_places(self._pipe._store, self._mixture, self._epoch, positions)

    def _decode(self, places: Places) -> Decoded:
        return self._pipe._decoder(places, epoch=self._epoch, size=self._pipe._settings.batch_size)

    def _note_skipped(self, decoded: Decoded) -> None:
        """Count and list what was skipped; too much is an error."""
        if not decoded.skipped:
            return
        pipe, self._skipped = self._pipe, self._skipped + len(decoded.skipped)
        pipe._stats.count("skipped", len(decoded.skipped))
        pipe._error_log.parent.mkdir(parents=True, exist_ok=True)
        rank = f"-rank{self._world.rank}" if self._world.size > 1 else ""
        path = pipe._error_log.with_stem(pipe._error_log.stem + rank)
        with path.open("a", encoding="utf-8") as file:
            for skipped in decoded.skipped:
                file.write(json.dumps(asdict(skipped) | {"epoch": self._epoch}) + "\n")
        if self._skipped * self._world.size > self._allowed_skips:
            raise DecodeError(
                f"{self._skipped} samples could not be decoded, more than "
                f"max_error_rate={pipe._settings.max_error_rate} of the epoch; the last: "
                f"{decoded.skipped[-1].reason}. All are listed in {path}"
            )

    def _read_ahead(self, position: int) -> ReadAhead | None:
        pipe = self._pipe
        if not pipe._store.fetches:
            return None
        mixture = pipe._make_mixture(self._mixture.streams)
        alone = self._world.nodes == mixture.streams
        sample_bytes = max(1, pipe._store.mean_sample_bytes)
        ahead_bytes = min(_AHEAD_BYTES, pipe._store.cache_bytes // 4)
        horizon = int(ahead_bytes / sample_bytes) * (mixture.streams if alone else 1)
        return ReadAhead(
            pipe._store,
            mixture,
            epoch=self._epoch,
            start=position,
            stream=self._world.rank // self._world.local_size if alone else None,
            horizon=horizon,
        )


def _release(store: ShardStore, threads: Threads) -> None:
    """End what a pipeline started; runs once, on ``close`` or when it is garbage.

    It may run in any thread, a decoding one included, so it waits for none.
    """
    store.stop()
    threads.stop()
    store.close()


def _process_group() -> tuple[int, int] | None:
    """Rank and size of torch.distributed's process group, where there is one."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def _to_device(batch: Batch, device: torch.device | None) -> Batch:
    """The batch with its tensors on a device, audio as float32 in [-1, 1]."""
    if device is None:
        return batch
    moved = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
    if "audio" in moved and moved["audio"].dtype == torch.int16:
        moved["audio"] = moved["audio"].float() / INT16_SCALE
    return moved
