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
    target = Target(url, storage_options)
    names = target.names()
    if NAME in names:
        return {"": _open(target)}
    folders = {name: target.child(name) for name in names if "." not in name}
    ordered = [name for name in _FIRST if name in folders]
    ordered += [name for name in folders if name not in _FIRST]
    splits = {name: _open(folders[name]) for name in ordered if NAME in folders[name].names()}
    if not splits:
        raise ManifestError(
            f"{url}: no {NAME} in it, nor in a folder below: not a dataset. Tars of others get one "
            "by: python -m packer index URL"
        )
    return splits


def _open(target: Target) -> Dataset:
    return Dataset(target, load_manifest(target.read(NAME), name=f"{target.url}/{NAME}"))
