"""Opens what is streamed: datasets, their cache, their subset, and the store of their shards."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from loader.cache import ShardCache, keep_manifests, require_limit
from loader.catalog import Catalog
from loader.decoded import decoded_bytes, folder_suffix, worth_keeping
from loader.foreign import count_samples
from loader.inplace import read_in_place
from loader.source import Source, open_source, take_subset
from loader.stats import Stats
from loader.store import ShardStore
from shards.errors import CacheError
from shards.values import is_real

log = logging.getLogger(__name__)

Shards = str | Path | Sequence[str | Path] | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Datasets:
    """Datasets that are ready to be read, in one store.

    Attributes:
        sources: cut to the subset; one unless they are mixed.
        weights: of the sources in a mixture.
        fingerprint: identity of the whole datasets.
        folder: of the cache, whether there is one or not.
    """

    sources: list[Source]
    weights: tuple[float, ...] | None
    fingerprint: str
    store: ShardStore
    stats: Stats
    folder: Path


def open_datasets(
    shards: Shards,
    *,
    folder: Path,
    limit_bytes: int | None,
    in_place: bool,
    decoded_rate: int | None,
    mount: bool | None,
    options: dict[str, Any] | None,
    subset: int | None,
    verify_hash: bool,
) -> Datasets:
    """Open datasets, their cache if one is needed, and cut them to the subset.

    Args:
        folder, limit_bytes: of the cache.
        in_place: read shards where they lie, and keep nothing about them.
        decoded_rate: Hz at which the cache also keeps them decoded; None keeps them as they come.
        mount: whether local paths go through the cache; None tells by file system.
        options: of fsspec.

    Raises:
        ValueError: if an argument names what cannot be had.
        DataError: if a dataset cannot be read.
    """
    if not isinstance(shards, str | Path | Sequence | Mapping) or not shards:
        raise ValueError(f"shards must be a URL, a list of them or a dict of weights: {shards!r}")
    weights = _weights(shards) if isinstance(shards, Mapping) else None
    urls = list(shards) if isinstance(shards, Mapping) else [shards]
    if weights is not None and subset is not None:
        raise ValueError("subset and a mixture exclude each other: which part of which dataset?")
    if not in_place:
        require_limit(limit_bytes)
    keep = None if in_place else folder
    sources = [open_source(url, options, cache_dir=keep) for url in urls]
    shards_of_all = Catalog.join([source.shards for source in sources])
    if verify_hash:
        _require_hashes(shards_of_all, by_range=in_place)
    mounted = not read_in_place(shards_of_all, mount).all()
    cached = not in_place and (mounted or decoded_rate is not None)
    by_range = any(f.local is None for f in shards_of_all.used_folders())
    needed = verify_hash and by_range
    cache = _open_cache(folder, limit_bytes, needed=needed) if cached else None
    stats = Stats()
    open_store = partial(_open_store, cache=cache, stats=stats, mount=mount)
    sources = [count_samples(source, keep, open_store) for source in sources]
    fingerprint = _fingerprint(sources)
    if subset is not None:
        sources = [take_subset(sources[0], subset)]
    if cache is not None:
        _keep_manifests(cache, sources)
    decoded = _decoded_suffix(sources, cache, decoded_rate, mount)
    store = ShardStore(
        sources,
        cache,
        stats,
        mount=mount,
        decoded=decoded,
        cache_dir=keep,
        verify_hash=verify_hash,
    )
    return Datasets(sources, weights, fingerprint, store, stats, folder)


def _weights(shards: Mapping[str, float]) -> tuple[float, ...]:
    """Weights of a mixture as Python's own numbers, for JSON; raise ValueError if one is none."""
    for url, weight in shards.items():
        if not (is_real(weight) and math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {url} must be a positive number, got {weight!r}")
    return tuple(float(weight) for weight in shards.values())


def _open_cache(folder: Path, limit_bytes: int | None, *, needed: bool) -> ShardCache | None:
    """The cache, or None with a warning where its folder cannot be made.

    Raises:
        CacheError: if it cannot be made and is ``needed``: without, parts of shards would be read.
    """
    try:
        return ShardCache(folder, limit_bytes)
    except CacheError as error:
        if needed:
            raise
        log.warning("%s; shards are read where they lie, again every epoch", error)
        return None


def _keep_manifests(cache: ShardCache, sources: Sequence[Source]) -> None:
    try:
        keep_manifests(cache, sources)
    except CacheError as error:  # shards that are there already can be read all the same
        log.warning("%s; manifests are not kept", error)


def _require_hashes(shards: Catalog, *, by_range: bool) -> None:
    """Refuse to promise what cannot be checked."""
    for folder, run in shards.runs():
        numbers = shards.numbers[run]
        bare = numbers[~folder.infos.hashed[numbers]]
        if len(bare):
            url = folder.prefix + folder.infos.urls[int(bare[0])]
            raise ValueError(f"{url}: verify_hash=True, but no manifest tells its SHA-256")
        if by_range and folder.local is None and len(numbers):
            raise ValueError(
                f'{folder.prefix}: verify_hash=True reads whole shards, cache="off" parts of them: '
                'pass cache="raw"'
            )


def _decoded_suffix(
    sources: Sequence[Source],
    cache: ShardCache | None,
    sample_rate: int | None,
    mount: bool | None,
) -> str:
    """Suffix of the cache's folders for decoded shards; empty where they are kept raw."""
    if cache is None or sample_rate is None:
        return ""
    shards = Catalog.join([source.shards for source in sources])
    raw = int(shards.sizes[~read_in_place(shards, mount)].sum())
    size = sum(decoded_bytes(source, sample_rate) for source in sources)
    return folder_suffix(sample_rate) if worth_keeping(size, cache, raw_bytes=raw) else ""


def _open_store(
    source: Source, *, cache: ShardCache | None, stats: Stats, mount: bool | None
) -> ShardStore:
    return ShardStore([source], cache, stats, mount=mount)


def _fingerprint(sources: Sequence[Source]) -> str:
    if len(sources) == 1:
        return sources[0].fingerprint
    return sha256("".join(source.fingerprint for source in sources).encode()).hexdigest()
