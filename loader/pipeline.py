"""The pipeline: batches in order, epoch after epoch, decoded ahead by threads."""

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from torch.utils.data import IterableDataset, get_worker_info

from loader.ahead import ReadAhead
from loader.batch import Batch
from loader.decode import BatchDecoder
from loader.decoded import DecodedKeeper
from loader.device import Mover, make_mover
from loader.epoch import Epoch
from loader.find import KeyFinder
from loader.recipe import Recipe
from loader.sampler import Sampler
from loader.settings import Settings
from loader.skipped import SkipLog
from loader.source import Source
from loader.stats import Stats
from loader.steps import Steps
from loader.store import ShardStore
from loader.threads import Threads

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
        self._error_log = error_log
        self._sampler = Sampler(sources, settings, fingerprint=fingerprint, weights=weights)
        self._threads = Threads(settings.num_workers)
        self._decoder = BatchDecoder(
            store,
            recipe,
            stats,
            skip_errors=settings.on_error == "skip",
            with_source=weights is not None,
            keep_buffers=settings.prefetch + self._threads.most + 2,
            pinned=settings.device is not None and settings.device.type == "cuda",
        )
        self._next = (0, 0)  # epoch and position of the next iter()
        self._at = (0, 0)  # what was delivered
        self._chosen = False  # whether the next iter() has to be of its epoch, even if it is over
        self._shown = 0  # epoch whose crops are those of pipe[key]
        self._iterator: Epoch | None = None
        self._process = os.getpid()
        self._mover: Mover | None = None
        self._finalizer = weakref.finalize(self, _release, store, self._threads)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the columns of ``labels``, in order."""
        return self._recipe.dimensions

    @property
    def batches_left(self) -> int:
        """Batches that the next ``iter()`` gives on this rank, in the rest of a loaded epoch.

        0 is an epoch that was loaded at its end: then it gives a whole one, the next, or none if
        ``set_epoch`` asked for the one that was loaded.
        """
        return self._sampler.steps(self._next[1])

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank; the same on every rank."""
        return len(self._sampler)

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
        over = len(self) and not self._sampler.steps(position)  # what is left makes no batch
        if over and not self._chosen:
            epoch, position, over = epoch + 1, 0, False
        self._next, self._chosen = (epoch + 1, 0), False
        self._at = self._next if over else (epoch, position)
        self._shown = epoch
        self._iterator = self._begin(epoch, position)
        return self._iterator

    def __getitem__(self, key: str | tuple[int, str]) -> dict[str, Any]:
        """One decoded sample by key, or by (source, key) in a mixture: a batch's row.

        Crops and transforms are those of the epoch that was begun, loaded or, between
        iterations, set last.

        Raises:
            KeyError: if there is none.
        """
        self._require_usable()
        source, name = key if isinstance(key, tuple) else (None, key)
        if not isinstance(name, str):
            raise KeyError(f"{key!r}: samples are asked by their key, a string")
        if source is None and self._sampler.weights is not None:
            raise KeyError(f"{name!r}: a mixture is asked by (source, key)")
        places = KeyFinder(self._sources, self._store).find(name, source or 0)
        mover = self._find_mover()
        decoded = self._decoder(places, epoch=self._shown, size=1)
        batch = mover.receive(mover.send(decoded.batch))
        return {field: value[0] for field, value in batch.items()}

    def set_epoch(self, epoch: int) -> None:
        """Make the next ``iter()`` that of ``epoch``; a loaded position in it is kept.

        Where what is left of it makes no batch, it gives none.

        Raises:
            ValueError: if it is negative.
        """
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch must be a whole number from 0, got {epoch!r}")
        if epoch != self._next[0]:
            self._next = (epoch, 0)
        self._chosen = True
        if self._iterator is None or self._iterator.ended:
            self._at, self._shown = self._next, epoch

    def state_dict(self) -> dict[str, Any]:
        """What was delivered so far, as JSON: a later run goes on exactly here."""
        return self._sampler.state(*self._at).to_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state stands, at the next ``iter()``.

        Rank, world size, batch size and the options of decoding may differ from the state's.

        Raises:
            StateError: if it belongs to other data or another order.
        """
        loaded = self._sampler.checked(state)
        self._end_iterator()
        self._sampler.follow(loaded)
        self._at = self._next = (loaded.epoch, loaded.position)
        self._chosen, self._shown = False, loaded.epoch

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

    def _find_mover(self) -> Mover:
        """The way to the device, which is looked up at the first batch."""
        self._mover = self._mover or make_mover(self._settings.device)
        return self._mover

    def _begin(self, epoch: int, position: int) -> Epoch:
        """The pass of an epoch from a position on."""
        settings, world, mixture = self._settings, self._sampler.world, self._sampler.mixture
        steps = Steps(
            self._store,
            mixture,
            world,
            epoch=epoch,
            position=position,
            batch_size=settings.batch_size,
            steps=self._sampler.steps(position),
        )
        skip_log = SkipLog(
            self._error_log,
            world,
            epoch=epoch,
            samples=len(mixture),
            max_error_rate=settings.max_error_rate,
        )
        mover = self._find_mover()
        self._threads.ahead = self._read_ahead(epoch, position)
        return Epoch(
            steps,
            partial(self._decoder, epoch=epoch, size=settings.batch_size),
            mover,
            self._threads,
            prefetch=settings.prefetch,
            ahead=self._threads.ahead,
            skip_log=skip_log,
            stats=self._stats,
            require_usable=self._require_usable,
            delivered=partial(self._delivered, epoch),
        )

    def _delivered(
        self, epoch: int, position: int | None, *, seconds: float, waited_s: float
    ) -> None:
        """Note how far the epoch is, and let the batch have its say in the number of threads."""
        fetched = self._stats.fetched_bytes
        self._threads.observe(seconds=seconds, waited_s=waited_s, fetched_bytes=fetched)
        self._at = (epoch + 1, 0) if position is None else (epoch, position)

    def _read_ahead(self, epoch: int, position: int) -> ReadAhead | None:
        store, world, mixture = self._store, self._sampler.world, self._sampler.mixture
        if not store.fetches:
            return None
        alone = world.nodes == mixture.streams
        ahead_bytes = min(_AHEAD_BYTES, store.cache_bytes // 4)
        samples = int(ahead_bytes / max(1, store.mean_sample_bytes))
        return ReadAhead(
            store,
            self._sampler.new_mixture(mixture.streams),
            epoch=epoch,
            start=position,
            stream=world.rank // world.local_size if alone else None,
            horizon=samples * (mixture.streams if alone else 1),
        )

    def _end_iterator(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


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
