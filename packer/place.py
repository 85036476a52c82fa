"""Where samples are added: a dataset, what was divided along with it, and the keys they have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packer.joining import PARTS
from packer.splits import Dataset, open_splits
from shards.errors import ManifestError
from shards.keys import KEYS, RECORD

_OF_INPUT = ("input_sha256", PARTS)


@dataclass(frozen=True, slots=True)
class Place:
    """Where samples are to be added.

    Attributes:
        splits: by name, the dataset and those that the same build divided from it. The dataset has
            an empty name if it was not divided, or is no longer called as its split was.
    """

    dataset: Dataset
    splits: Mapping[str, Dataset]

    @property
    def identities(self) -> set[str]:
        return {one.target.identity for one in self.splits.values()}

    @property
    def others(self) -> list[Dataset]:
        """The splits beside the dataset."""
        own = self.dataset.target.identity
        return [one for one in self.splits.values() if one.target.identity != own]

    def taken(self) -> NDArray[np.uint64]:
        """Hashes of the keys that no new sample may have.

        Raises:
            ManifestError: as ``read_keys``.
        """
        return np.concatenate([read_keys(one)["hash"] for one in self.splits.values()])


def find_place(url: str, storage_options: dict[str, Any] | None) -> Place:
    """The dataset at a URL, and what was divided along with it.

    Raises:
        ManifestError: if there is none, several, or one that this packer did not build.
    """
    dataset = _open(url, storage_options)
    options, name = dataset.manifest.options, dataset.target.name
    divided = options.get("split") or options.get("split_by") is not None
    if not divided or "." in name:  # no folder of a split is called so: it was moved
        return Place(dataset, {"": dataset})
    found = open_splits(dataset.target.parent.url, storage_options)
    same = {split: one for split, one in found.items() if _origin(one) == _origin(dataset)}
    if name not in same:
        return Place(dataset, {"": dataset})
    called = options.get("split") or same
    if name not in called:  # renamed, or a copy
        return Place(dataset, {"": dataset, **{n: one for n, one in same.items() if n != name}})
    ordered = [split for split in called if split in same]
    return Place(dataset, {split: same[split] for split in ordered})


def read_keys(dataset: Dataset) -> NDArray[np.void]:
    """``keys.bin`` of the shards that the manifest names: an append that broke off wrote more.

    Raises:
        ManifestError: if it is missing, or has not a record of every sample, with what makes it
            anew.
    """
    target, manifest = dataset.target, dataset.manifest
    try:
        data = target.read(KEYS)
    except FileNotFoundError:
        raise ManifestError(_unknown(dataset, "is missing")) from None
    if len(data) % RECORD.itemsize:
        raise ManifestError(_unknown(dataset, "is cut off"))
    records = np.frombuffer(data, dtype=RECORD)
    records = records[records["shard"] < len(manifest.shards)]
    if len(records) != manifest.samples:
        fault = f"is not whole, with {len(records)} keys of {manifest.samples} samples"
        raise ManifestError(_unknown(dataset, fault))
    return records


def _unknown(dataset: Dataset, fault: str) -> str:
    """What is wrong with ``keys.bin``, and the command that makes it anew."""
    url = dataset.target.url
    ours = bool(dataset.manifest.packer_version)
    command = f"verify {url} --repair ANNOTATIONS" if ours else f"index {url}"
    return (
        f"{url}/{KEYS}: {fault}, so the keys of the dataset are not known; make it anew with: "
        f"python -m packer {command}"
    )


def _origin(dataset: Dataset) -> dict[str, Any]:
    """What datasets of one build have in common."""
    options = {**dataset.manifest.options, "name": dataset.manifest.name}
    return {name: value for name, value in options.items() if name not in _OF_INPUT}


def _open(url: str, storage_options: dict[str, Any] | None) -> Dataset:
    datasets = open_splits(url, storage_options)
    if "" not in datasets:
        names = list(datasets)
        raise ManifestError(f"{url}: holds splits; name one: {url}/{f' or {url}/'.join(names)}")
    if "input_sha256" not in datasets[""].manifest.options:
        raise ManifestError(f"{url}: was not built by this packer, so its options are not known")
    return datasets[""]
