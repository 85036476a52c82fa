"""What a URL holds: a dataset, or a folder of splits that are datasets."""

from dataclasses import dataclass
from typing import Any

from packer.target import Target
from shards.errors import ManifestError
from shards.manifest import NAME, Manifest, load_manifest

_FIRST = ("train", "val", "test")  # the order that people expect; other splits follow by name


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder with a manifest."""

    target: Target
    manifest: Manifest


def open_splits(url: str, storage_options: dict[str, Any] | None = None) -> dict[str, Dataset]:
    """The datasets of a folder by name of the split; a dataset by itself has an empty one.

    Raises:
        ManifestError: if there is no manifest, or it is damaged.
        FetchError: if the URL cannot be opened.
    """
    targets = split_targets(Target(url, storage_options))
    return {split: _open(target) for split, target in targets.items()}


def split_targets(target: Target) -> dict[str, Target]:
    """The folders with a manifest, as ``open_splits`` names them.

    Raises:
        ManifestError: if there are none.
    """
    names = target.names()
    if names == [target.name]:  # as file systems list a file
        folder = target.url.rpartition("/")[0] or "."
        raise ManifestError(f"{target.url}: is a file; a dataset is a folder, such as {folder}")
    if NAME in names:
        return {"": target}
    folders = {name: target.child(name) for name in names if "." not in name}
    ordered = [name for name in _FIRST if name in folders]
    ordered += [name for name in folders if name not in _FIRST]
    splits = {name: folders[name] for name in ordered if NAME in folders[name].names()}
    if not splits:
        raise ManifestError(
            f"{target.url}: no {NAME} in it, nor in a folder below: not a dataset. Tars of others "
            "get one by: python -m packer index URL"
        )
    return splits


def _open(target: Target) -> Dataset:
    return Dataset(target, load_manifest(target.read(NAME), name=f"{target.url}/{NAME}"))
