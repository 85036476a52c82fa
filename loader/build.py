"""``make_pipeline``: from arguments, checked at the door, to a pipeline."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch

from loader.cache import default_folder
from loader.contents import choose_dimensions, choose_fields, contents
from loader.datasets import Datasets, Shards, open_datasets
from loader.device import choose_device, dtype_in_memory
from loader.order import Shuffle
from loader.pipeline import Pipeline
from loader.recipe import AudioDtype, Crop, MidiForm, Recipe, Transform, whole_number
from loader.relabel import read_labels
from loader.settings import Settings
from shards.units import in_words

log = logging.getLogger(__name__)


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
        subset: only the first N samples, in a fixed order of whole shards. With a mixture it is
            refused: of which dataset would they be?
        fields: of "audio", "midi", "labels", "json"; None is the first three, as far as they
            are there: audio and MIDI in all parts of a list, labels in any. What is not asked for
            is neither read nor decoded.
        labels: URL of a JSONL of ``{"key", "labels"}`` that replaces or adds labels.
        dimensions: label names, in order; None takes all; ``Pipeline.dimensions`` tells them. Of
            tars without a manifest one sample is looked at: the first of each folder, pattern or
            tar that is named; where more than 16 are, the first of each folder that they lie in,
            of at most 16 folders. Names that only other samples have are found by
            ``python -m packer index``.
        sample_rate: Hz of the audio.
        clip_seconds: length of the window; None is whole samples, padded to the longest.
        crop: where the window lies: "start", "center", or "random" by seed, epoch and key.
        audio_dtype: "float32", or "int16" to scale by 1/32768 later.
        midi: "octuple" tokens or the "notes" table.
        max_notes: rows of ``midi``; the first notes of a window that has more.
        transform: ``transform(sample) -> sample`` in the decoding threads; may change arrays in
            place, or return others of the same shape and kind of numbers, and add arrays of one
            shape. ``sample["rng"]`` is its own Generator.
        on_error: "raise", or "skip" to replace an undecodable sample by a blank row.
        max_error_rate: share of an epoch's samples that may be skipped. Of several ranks, each
            may skip this share of its own part, and three times the square root of that count
            more, for what chance may bring to one part; together they may skip more, then.
            ``iter()`` begins to count anew, on resuming too.
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
        device=choose_device(device),
    )
    sample_rate = whole_number("sample_rate", sample_rate)  # it names a folder of the cache
    opened = open_datasets(
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
    if labels is not None and not isinstance(labels, str | Path):
        raise ValueError(
            f"labels must be the URL of a file of ratings, got {labels!r}; those that were packed "
            'are read without it, or with fields=["labels"] alone'
        )
    with ExitStack() as undone:
        undone.callback(opened.store.close)
        _warn(opened, shuffle, subset)
        relabels = None if labels is None else read_labels(str(labels), storage_options)
        present, names = contents(opened.sources, opened.store, relabels)
        recipe = Recipe(
            fields=choose_fields(fields, present),
            dimensions=choose_dimensions(dimensions, names),
            sample_rate=sample_rate,
            clip_seconds=clip_seconds,
            crop=crop,
            audio_dtype=dtype_in_memory(audio_dtype, settings.device, transform),
            midi=midi,
            max_notes=max_notes,
            seed=seed,
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


def _warn(opened: Datasets, shuffle: Shuffle, subset: int | None) -> None:
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
            "shuffle mixes shards of %s, more than the %s that the cache may have: they "
            "are fetched several times an epoch; raise cache_bytes or lower shuffle",
            *map(in_words, (window_bytes, cache_bytes)),
        )
