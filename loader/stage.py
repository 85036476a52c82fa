"""Fills the cache ahead of training."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loader.cache import ShardCache, keep_manifests
from loader.foreign import count_samples
from loader.source import Source, open_source, take_subset
from loader.stats import Stats
from loader.store import ShardStore
from loader.transfer import read_url
from shards.units import in_words

_LARGEST_KEYS_BYTES = 2 << 30
_FETCHERS = 3
_REFRESH_S = 0.2


@dataclass(frozen=True, slots=True)
class Staged:
    """What a cache holds now of a dataset.

    Attributes:
        folders: of the datasets within the cache; each can be given to ``make_pipeline``. Tars
            without a manifest have none: they are streamed by their URL, through the cache.
        fetched_bytes: of the ``bytes`` in all shards, those that had to be fetched.
    """

    folders: tuple[Path, ...]
    shards: int
    bytes: int
    fetched_bytes: int


def stage(
    url: str,
    *,
    cache_dir: Path,
    cache_bytes: int | None = None,
    subset: int | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: bool = True,
) -> Staged:
    """Fetch the shards of a dataset, or of its first ``subset`` samples, into a cache.

    What is there already is not fetched again; a broken transfer goes on where it stopped.

    Raises:
        ValueError: if the shards need more room than the cache may have.
        DataError: if the dataset cannot be read.
    """
    cache = ShardCache(cache_dir, cache_bytes)
    source = open_source(url, storage_options, cache_dir=cache.folder)
    stats = Stats()
    keep_manifests(cache, [source])
    _keep_keys(cache, source)
    if subset is not None:
        source = count_samples(source, cache.folder, partial(_open_store, cache=cache, stats=stats))
        source = take_subset(source, subset)
    size = int(source.shards.sizes.sum())
    if size > cache.limit_bytes:
        raise ValueError(
            f"{url}: its shards have {in_words(size)}, the cache may have "
            f"{in_words(cache.limit_bytes)}: make room, raise --cache-bytes or pass --subset"
        )
    store = _open_store(source, cache=cache, stats=stats)
    try:
        _fetch_all(store, stats, size, progress=progress)
    finally:
        store.close()
    datasets = (folder for folder in source.shards.used_folders() if folder.manifest)
    folders = dict.fromkeys(cache.folder / folder.name for folder in datasets)
    fetched = int(stats.snapshot()["fetched_bytes"])
    return Staged(tuple(folders), len(source.shards), size, fetched)


def _open_store(source: Source, *, cache: ShardCache, stats: Stats) -> ShardStore:
    return ShardStore([source], cache, stats, mount=True)


def _keep_keys(cache: ShardCache, source: Source) -> None:
    """Put key indexes into the cache; tars that others made may have none."""
    for folder in source.shards.used_folders():
        if folder.url:
            with suppress(FileNotFoundError):
                index = partial(
                    read_url,
                    f"{folder.url}/keys.bin",
                    dict(source.options),
                    limit_bytes=_LARGEST_KEYS_BYTES,
                )
                cache.keep(f"{folder.name}/keys.bin", index)


def _fetch_all(store: ShardStore, stats: Stats, size: int, *, progress: bool) -> None:
    """Fetch every shard, a few at a time, and show how far it is."""
    finished = threading.Event()
    bar = tqdm(
        total=size, unit="B", unit_scale=True, desc="staging", disable=None if progress else True
    )
    done: list[int] = []

    def fetch(number: int) -> None:
        store.ensure(number)
        done.append(int(store.shards.sizes[number]))

    def show() -> None:
        while not finished.wait(_REFRESH_S):
            bar.n = max(sum(done), min(size, int(stats.snapshot()["fetched_bytes"])))
            bar.refresh()

    shown = threading.Thread(target=show, name="loader-stage-bar", daemon=True)
    with bar, ThreadPoolExecutor(_FETCHERS, "loader-stage") as pool:
        shown.start()
        try:
            for _ in pool.map(fetch, range(len(store.shards))):
                pass
        except BaseException:
            store.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            finished.set()
            shown.join()
            bar.n = sum(done)
            bar.refresh()
