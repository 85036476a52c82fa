"""``make_pipeline``: from arguments, checked at the door, to a pipeline."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from loader.cache import ShardCache, default_folder, keep_manifests
from loader.catalog import Catalog
from loader.decoded import decoded_bytes, folder_suffix, worth_keeping
from loader.example import Scratch, read_example
from loader.foreign import count_samples
from loader.inplace import read_in_place
from loader.order import Shuffle
from loader.pipeline import Pipeline
from loader.recipe import (
    FIELDS,
    AudioDtype,
    Crop,
    MidiForm,
    Recipe,
    Transform,
    audio_extension,
    midi_extension,
)
from loader.relabel import LabelTable, read_labels
from loader.settings import Settings
from loader.source import Source, open_source, take_subset
from loader.stats import Stats
from loader.store import ShardStore
from shards.errors import CacheError

log = logging.getLogger(__name__)

Shards = str | Path | Sequence[str | Path] | Mapping[str, float]


def make_pipeline(
    shards: Shards,
    *,
    batch_size: int = 16,
    drop_last: bool = True,
    shuffle: Shuffle = 1000,
    seed: int = 0,
    num_workers: int | Literal["auto"] = 4,
    prefetch: int = 4,
    cache_dir: str | Path | None = None,
    cache_bytes: int | None = None,
    cache: Literal["raw", "decoded", "off"] = "raw",
    cache_mount: bool | None = None,
    storage_options: dict[str, Any] | None = None,
    subset: int | None = None,
    fields: Sequence[str] | None = None,
    labels: str | Path | None = None,
    dimensions: Sequence[str] | None = None,
    sample_rate: int = 24000,
    clip_seconds: float | None = 10.0,
    crop: Crop = "start",
    audio_dtype: AudioDtype = "float32",
    midi: MidiForm = "octuple",
    max_notes: int = 512,
    transform: Transform | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    max_error_rate: float = 0.01,
    verify_hash: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    device: str | torch.device | None = None,
) -> Pipeline:
    """Stream batches out of WebDataset shards, in an exact order, decoded ahead by threads.

    A batch is a dict: ``audio`` float32 [B, T] in [-1, 1], ``audio_frames`` int64 [B], ``midi``
    int64 [B, max_notes, 8] (or float32 [B, max_notes, 6]), ``midi_notes`` int64 [B], ``labels``
    float32 [B, D] with NaN where missing, ``weight`` float32 [B], ``__key__`` list of B strings,
    ``source`` int64 [B] when mixing, ``json`` list of B dicts when asked for. Rows of weight 0
    are padding or were skipped: zeros, labels NaN.

    Args:
        shards: URL of a dataset folder, of a manifest or of tars (a glob or ``{000..099}``), a
            list of these (end to end), or a dict of URL to weight (mixed).
        batch_size: samples of a batch on this rank.
        drop_last: leave out the samples that do not fill a batch on every rank; False pads.
        shuffle: 0 keeps the stored order, N shuffles in windows of at least N samples of whole
            shards, "full" is one permutation of everything.
        seed: fixes the order, crops and transforms, together with the epoch.
        num_workers: decoding threads; 0 decodes in the caller's; "auto" begins with one a
            core and settles on the number that gives most.
        prefetch: batches decoded ahead.
        cache_dir: folder of the shard cache, on a local disk; None finds one. It also keeps what is
            slow to find out: manifests of more than 1,000 shards as they were parsed, and indexes
            of tars that others wrote.
        cache_bytes: its limit; None is half of what is free. A window of ``shuffle`` samples
            should fit, or shards are fetched several times an epoch.
        cache: "raw" keeps shards as they come, "decoded" also as int16 at ``sample_rate``, which
            makes every epoch after the first as fast as memory; "off" reads local files in place
            and others by range, every epoch anew, and leaves ``cache_dir`` alone.
        cache_mount: whether local paths go through the cache; None lets those on FUSE, NFS and
            the like, and reads others in place.
        storage_options: passed to fsspec.
        subset: only the first N samples, in a fixed order of whole shards.
        fields: of "audio", "midi", "labels", "json"; None is the first three, as far as they
            are there. What is not asked for is neither read nor decoded.
        labels: URL of a JSONL of ``{"key", "labels"}`` that replaces or adds labels.
        dimensions: label names, in order; None takes all; ``Pipeline.dimensions`` tells them.
        sample_rate: Hz of the audio.
        clip_seconds: length of the window; None is whole samples, padded to the longest.
        crop: where the window lies: "start", "center", or "random" by seed, epoch and key.
        audio_dtype: "float32", or "int16" to scale by 1/32768 later.
        midi: "octuple" tokens or the "notes" table.
        max_notes: rows of ``midi``; the first notes of a window that has more.
        transform: ``transform(sample) -> sample`` in the decoding threads; may change arrays in
            place and add arrays of one shape. ``sample["rng"]`` is its own Generator.
        on_error: "raise", or "skip" to replace an undecodable sample by a blank row.
        max_error_rate: share of an epoch that may be skipped.
        verify_hash: check the SHA-256 of shards that lie on a disk, too, when they are first
            opened; what is fetched is always checked. Where the cache cannot hold a remote shard,
            that is an error, and it is not read by range.
        rank: of this process; None finds it: torch.distributed, torchrun's or srun's variables.
        world_size: how many ranks there are; found in the same way.
        device: where batches arrive; None leaves them in memory. CUDA gets 16-bit audio over the
            bus, beside its computing, and makes float32 of it; where there is none, batches stay
            in memory, with a warning.

    Raises:
        ValueError: if an argument is out of range, or names what the dataset lacks.
        DataError: if the dataset cannot be read.
    """
    if cache not in ("raw", "decoded", "off"):
        raise ValueError(f'cache must be "raw", "decoded" or "off", got {cache!r}')
    settings = Settings(
        batch_size=batch_size,
        drop_last=drop_last,
        shuffle=shuffle,
        seed=seed,
        num_workers=num_workers,
        prefetch=prefetch,
        subset=subset,
        on_error=on_error,
        max_error_rate=max_error_rate,
        rank=rank,
        world_size=world_size,
        device=_device(device),
    )
    opened = _open(
        shards,
        folder=Path(cache_dir or default_folder()),
        limit_bytes=cache_bytes,
        in_place=cache == "off",
        decoded_rate=sample_rate if cache == "decoded" else None,
        mount=cache_mount,
        options=storage_options,
        subset=subset,
        verify_hash=verify_hash,
    )
    with ExitStack() as undone:
        undone.callback(opened.store.close)
        _warn(opened, shuffle, subset)
        relabels = None if labels is None else read_labels(str(labels), storage_options)
        present, names = _contents(opened, relabels)
        recipe = Recipe(
            fields=_fields(fields, present),
            dimensions=_dimensions(dimensions, names),
            sample_rate=sample_rate,
            clip_seconds=clip_seconds,
            crop=crop,
            audio_dtype=_dtype_in_memory(audio_dtype, settings.device, transform),
            midi=midi,
            max_notes=max_notes,
            seed=seed,
            packed=all(source.is_packed for source in opened.sources),
            relabels=relabels,
            transform=transform,
        )
        pipe = Pipeline(
            opened.sources,
            opened.store,
            recipe,
            settings,
            opened.stats,
            fingerprint=opened.fingerprint,
            weights=opened.weights,
            error_log=opened.folder / "errors.jsonl",
        )
        undone.pop_all()  # the pipeline closes it
        return pipe


@dataclass(frozen=True, slots=True)
class _Opened:
    """Datasets that are ready to be read."""

    sources: list[Source]
    weights: tuple[float, ...] | None
    fingerprint: str
    store: ShardStore
    stats: Stats
    folder: Path


def _open(
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
) -> _Opened:
    """Open datasets, their cache if one is needed, and cut them to the subset."""
    if not isinstance(shards, str | Path | Sequence | Mapping) or not shards:
        raise ValueError(f"shards must be a URL, a list of them or a dict of weights: {shards!r}")
    weights = tuple(shards.values()) if isinstance(shards, Mapping) else None
    urls = list(shards) if isinstance(shards, Mapping) else [shards]
    if weights is not None and subset is not None:
        raise ValueError("subset and a mixture exclude each other: which part of which dataset?")
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
    return _Opened(sources, weights, fingerprint, store, stats, folder)


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


def _warn(opened: _Opened, shuffle: Shuffle, subset: int | None) -> None:
    """Say what is allowed and yet may be a mistake."""
    if shuffle == "full" and opened.store.fetches:
        log.warning(
            'shuffle="full" over shards that have to be fetched: every batch wants others, so an '
            "epoch fetches them all at once, and again where the cache does not hold them: pass "
            "shuffle=N, or fetch them first with: python -m loader stage"
        )
    elif shuffle and opened.store.fetches:
        samples = min(int(shuffle), sum(int(source.rows.sum()) for source in opened.sources))
        _compare_window(samples * opened.store.mean_sample_bytes, opened.store.cache_bytes)
    if subset is not None and any(source.is_foreign for source in opened.sources):
        log.warning(
            "subset=%d takes whole shards, and nothing says that these were shuffled when they "
            "were written: it may be one-sided",
            subset,
        )


def _compare_window(window_bytes: float, cache_bytes: int) -> None:
    if window_bytes > cache_bytes:
        log.warning(
            "shuffle mixes shards of %.1f MB, more than the %.1f MB that the cache may have: they "
            "are fetched several times an epoch; raise cache_bytes or lower shuffle",
            *(window_bytes / 1e6, cache_bytes / 1e6),
        )


def _fingerprint(sources: Sequence[Source]) -> str:
    if len(sources) == 1:
        return sources[0].fingerprint
    return sha256("".join(source.fingerprint for source in sources).encode()).hexdigest()


def _contents(opened: _Opened, relabels: LabelTable | None) -> tuple[set[str], list[str]]:
    """Fields that all datasets have, but labels, which one may lack; the names of all labels."""
    present = {"audio", "midi", "json"}
    names: dict[str, None] = {}
    first = 0
    for source in opened.sources:
        fields, labels = _source_contents(source, opened.store, first)
        present &= fields
        names |= dict.fromkeys(labels)
        first += len(source.shards)
    if relabels is not None:
        names |= dict.fromkeys(relabels.label_names)
    return present | ({"labels"} if names else set()), list(names)


def _source_contents(
    source: Source, store: ShardStore, first: int
) -> tuple[set[str], Sequence[str]]:
    """Fields and label names of a source, as its manifest or else its first sample says."""
    if not source.is_foreign:
        fields = set.intersection(*(set(manifest.fields) for manifest in source.manifests))
        return fields | ({"labels"} if source.label_names else set()) | {"json"}, source.label_names
    if not source.rows.any():
        raise ValueError(f"{source.name}: there is no sample in its {len(source.shards)} shards")
    with store.reader(first + int(np.argmax(source.rows > 0))) as reader:
        members = {member.extension: member for member in reader.members(0)}
        example = read_example(reader, 0, Recipe(("json",), ()), Scratch())
    labels = list(example.meta.labels)
    found = {
        "audio": audio_extension(members) is not None,
        "midi": midi_extension(members) is not None,
        "labels": bool(labels),
        "json": "json" in members,
    }
    return {name for name, there in found.items() if there}, labels


def _fields(asked: Sequence[str] | None, present: set[str]) -> tuple[str, ...]:
    if asked is None:
        return tuple(name for name in ("audio", "midi", "labels") if name in present)
    if isinstance(asked, str):
        raise ValueError(f"fields must be a list of names, got {asked!r}")
    if missing := [name for name in asked if name in FIELDS and name not in present]:
        raise ValueError(f"the dataset has no {missing[0]!r}; it has {sorted(present)}")
    return tuple(dict.fromkeys(asked))


def _dimensions(asked: Sequence[str] | None, names: Sequence[str]) -> tuple[str, ...]:
    if asked is None:
        return tuple(names)
    if isinstance(asked, str):
        raise ValueError(f"dimensions must be a list of names, got {asked!r}")
    if unknown := [name for name in asked if name not in names]:
        raise ValueError(f"the dataset has no label {unknown[0]!r}; it has {list(names)}")
    return tuple(asked)


def _dtype_in_memory(
    asked: AudioDtype, device: torch.device | None, transform: Transform | None
) -> AudioDtype:
    """16 bits for CUDA, which scales them itself: half the bytes over the bus.

    A transform gets what was asked for.
    """
    on_cuda = device is not None and device.type == "cuda"
    return "int16" if on_cuda and transform is None else asked


def _device(device: str | torch.device | None) -> torch.device | None:
    """The device, or the CPU with a warning where it is CUDA and there is none."""
    if device is None:
        return None
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: {error}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        log.warning("device=%r, but this PyTorch finds no CUDA: batches stay in memory", device)
        return torch.device("cpu")
    return chosen
