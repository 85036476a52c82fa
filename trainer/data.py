"""The data of a run: pipelines over its splits, and where they stand in a checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule

from loader import Pipeline, make_pipeline
from loader.machine import usable_cores
from loader.transfer import read_url
from shards.errors import ManifestError
from shards.manifest import NAME, Manifest, load_manifest
from trainer.models import Mode, Statistics

FIELDS: dict[Mode, tuple[str, ...]] = {
    "audio": ("audio", "labels"),
    "midi": ("midi", "labels"),
    "fusion": ("audio", "midi", "labels"),
}
_EVALUATION: dict[str, Any] = {"drop_last": False, "shuffle": 0, "crop": "center"}


class Feed:
    """A pipeline as Lightning needs it: each pass is the epoch that the trainer is in.

    A pipeline begins an epoch with every ``iter()``, and Lightning calls that once only to see
    whether it can, and once more before it has the epoch's number. This ``__iter__`` is a
    generator: nothing begins before the first batch is asked for.
    """

    def __init__(self, pipeline: Pipeline, *, epoch: Callable[[], int]) -> None:
        self._pipeline = pipeline
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._pipeline)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Within the epoch of a loaded state the position is kept.
        self._pipeline.set_epoch(self._epoch())
        yield from self._pipeline


class PianoData(LightningDataModule):
    """The splits of a packed dataset, streamed by ``loader.make_pipeline``."""

    def __init__(
        self,
        *,
        shards: str,
        val_shards: str | None = None,
        mode: Mode = "fusion",
        batch_size: int = 16,
        drop_last: bool = True,
        shuffle: Literal["full"] | int = 1000,
        seed: int = 0,
        num_workers: Literal["auto"] | int = 4,
        prefetch: int = 4,
        cache_dir: str | None = None,
        cache_bytes: int | None = None,
        cache: Literal["raw", "decoded", "off"] = "raw",
        cache_mount: bool | None = None,
        storage_options: dict[str, Any] | None = None,
        subset: int | None = None,
        labels: str | None = None,
        dimensions: list[str] | None = None,
        sample_rate: int = 24000,
        clip_seconds: float | None = 10.0,
        crop: Literal["start", "random", "center"] = "start",
        audio_dtype: Literal["float32", "int16"] = "float32",
        max_notes: int = 512,
        on_error: Literal["raise", "skip"] = "raise",
        max_error_rate: float = 0.01,
    ) -> None:
        """Remember the arguments, which are ``make_pipeline``'s; nothing is opened yet.

        Validation and test take every sample once, in stored order, cropped at the centre.

        Args:
            shards: URL of the folder that holds the splits train/, val/ and test/.
            val_shards: URL of a dataset to validate on instead of val/.
            mode: what the model needs; nothing else is read.
            batch_size: samples a step and device.
            drop_last: leave out the training samples that do not fill a last batch.
            shuffle: window of training samples that are mixed; full mixes all, 0 none.
            seed: of order and random crops.
            num_workers: decoding threads; 0 decodes in the training thread.
            prefetch: batches decoded ahead.
            cache_dir: folder of the shard cache on a local disk; null finds one.
            cache_bytes: its limit; null is half of what is free at the start.
            cache: raw keeps shards as they came, decoded also decodes them, off keeps nothing.
            cache_mount: whether paths go through the cache; null asks the file system.
            storage_options: passed to fsspec with URLs.
            subset: train on the first so many samples of a fixed order.
            labels: not for training: the scale of ratings comes from the packed labels.
            dimensions: label names to rate, in order; null takes the manifest's.
            sample_rate: Hz that the audio is brought to.
            clip_seconds: length of a clip; null takes recordings whole.
            crop: where the clip lies in a longer training sample.
            audio_dtype: int16 halves what travels to the device; to a GPU of CUDA it always does.
            max_notes: notes of a clip; later ones are left out.
            on_error: raise, or skip samples that cannot be decoded, up to max_error_rate.
            max_error_rate: share of an epoch that may be skipped, and by chance a bit more of a
                rank's part; past it, it raises after all.
        """
        super().__init__()
        # What a checkpoint has to tell of how its model was fed, beside mode and sample rate.
        self.save_hyperparameters("clip_seconds", "max_notes", logger=False)
        if labels is not None:
            raise ValueError(
                "data.labels: the model's scale comes from the manifest, which knows the packed "
                "labels alone: put the new ones into the annotations and pack them"
            )
        self.root = shards.rstrip("/")
        self.batch_size = batch_size
        self.val_shards = val_shards
        self.dimensions = dimensions
        self.storage_options = storage_options
        self._common: dict[str, Any] = {
            "batch_size": batch_size,
            "seed": seed,
            "num_workers": num_workers,
            "prefetch": prefetch,
            "cache_dir": cache_dir,
            "cache_bytes": cache_bytes,
            "cache": cache,
            "cache_mount": cache_mount,
            "storage_options": storage_options,
            "labels": labels,
            "fields": FIELDS[mode],
            "sample_rate": sample_rate,
            "clip_seconds": clip_seconds,
            "audio_dtype": audio_dtype,
            "max_notes": max_notes,
            "on_error": on_error,
            "max_error_rate": max_error_rate,
        }
        self._training: dict[str, Any] = {
            "drop_last": drop_last,
            "shuffle": shuffle,
            "subset": subset,
            "crop": crop,
        }
        self._open: dict[str, Pipeline] = {}

    @cached_property
    def manifest(self) -> Manifest:
        """Of the training split.

        Raises:
            ManifestError: there is no such split.
        """
        return _training_manifest(self.root, storage_options=self.storage_options)

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and std by dimension over the training split.

        Raises:
            ValueError: there is no such split, or it lacks a dimension that was asked for.
        """
        return label_statistics(self.manifest, dimensions=self.dimensions, root=self.root)

    @property
    def position(self) -> int:
        """Samples of the training epoch that were delivered, over all ranks."""
        position: int = self._open["train"].state_dict()["position"]
        return position

    @property
    def batches(self) -> int:
        """Training batches of a whole epoch on this rank."""
        return len(self._open["train"])

    @property
    def batches_left(self) -> int:
        """Training batches of the epoch that are still to come on this rank."""
        return self._open["train"].batches_left

    @property
    def ahead(self) -> int:
        """Batches that are made while one is trained on, at most; on a GPU, they lie there."""
        return batches_ahead(self._common)

    def url(self, split: str) -> str:
        """Where a split lies."""
        if split == "val" and self.val_shards:
            return self.val_shards
        return f"{self.root}/{split}"

    def first_batch(self) -> tuple[dict[str, Any], int]:
        """A training batch, and how many samples an epoch of training has at most."""
        with self._pipeline("train", **self._training | {"drop_last": False}) as pipe:
            return next(iter(pipe)), len(pipe) * self.batch_size

    def setup(self, stage: str) -> None:
        """Open the pipelines of a stage."""
        if stage == "fit":
            self._open["train"] = self._pipeline("train", **self._training)
        if stage in ("fit", "validate"):
            self._open["val"] = self._pipeline("val", **_EVALUATION)
        if stage == "test":
            self._open["test"] = self._pipeline("test", **_EVALUATION)

    def train_dataloader(self) -> Feed:
        return Feed(self._open["train"], epoch=self._current_epoch)

    def val_dataloader(self) -> Feed:
        return Feed(self._open["val"], epoch=lambda: 0)

    def test_dataloader(self) -> Feed:
        return Feed(self._open["test"], epoch=lambda: 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the training data stand, for every checkpoint.

        Lightning would also ask the loader itself, but hands that state back only within an
        epoch; this one comes back always, and other data are refused at an epoch's end too.
        """
        return {"train": self._open["train"].state_dict()} if "train" in self._open else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue there; called after ``setup``, and without a train split when validating."""
        if "train" in self._open and "train" in state_dict:
            self._open["train"].load_state_dict(state_dict["train"])

    def stats(self) -> dict[str, Any]:
        """What the training pipeline counted: ``Pipeline.stats``."""
        return self._open["train"].stats()

    def teardown(self, stage: str) -> None:
        """Close the pipelines: their threads and their cache."""
        while self._open:
            self._open.popitem()[1].close()

    def _pipeline(self, split: str, **options: Any) -> Pipeline:
        own: dict[str, Any] = {"dimensions": list(self.statistics), "device": self._gpu()}
        return make_pipeline(self.url(split), **own, **self._common, **options)

    def _gpu(self) -> torch.device | None:
        """Where batches are to arrive, beside what the GPU computes; None is in memory."""
        device = self.trainer.strategy.root_device if self.trainer else None
        return device if device is not None and device.type == "cuda" else None

    def _current_epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0


def batches_ahead(options: Mapping[str, Any]) -> int:
    """Batches that a pipeline makes ahead, at most, by a config's ``data`` section."""
    workers = options["num_workers"]
    return max(int(options["prefetch"]), usable_cores() if workers == "auto" else int(workers))


def label_statistics(manifest: Manifest, *, dimensions: list[str] | None, root: str) -> Statistics:
    """Mean and std of the dimensions, in order; of all the manifest's if None.

    Raises:
        ValueError: a dimension is missing or has no label, or there is none at all.
    """
    names = list(manifest.labels) if dimensions is None else dimensions
    rated = [name for name, label in manifest.labels.items() if label.count]
    if missing := [name for name in names if name not in rated]:
        raise ValueError(f"data.dimensions: {missing} not rated in {root}/train, only {rated}")
    if not names:
        raise ValueError(f"{root}/train has no labels to learn")
    return {
        name: {"mean": manifest.labels[name].mean, "std": manifest.labels[name].std}
        for name in names
    }


def _training_manifest(root: str, *, storage_options: dict[str, Any] | None) -> Manifest:
    url = f"{root}/train/{NAME}"
    try:
        return load_manifest(read_url(url, storage_options), name=url)
    except FileNotFoundError as error:
        raise ManifestError(
            f"data.shards: {root} has no train/{NAME}: it must be the folder above the splits "
            "train/, val/ and test/, which `python -m packer build --split` makes"
        ) from error
