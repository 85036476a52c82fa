"""What a target folder already holds: this dataset finished, or begun, or another one."""

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from packer.card import remove_card
from packer.joining import PARTS
from packer.shard import Written, shard_name
from packer.target import Target
from shards.errors import ManifestError
from shards.keys import KEYS
from shards.manifest import NAME, Manifest, ShardInfo, load_manifest

BEGUN = "build.json"
ENCODED = "build.spool"  # folder of what a cluster has encoded and not yet cut
_READERS = 8  # files read back at a time, which a slow mount rewards


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one group.

    Attributes:
        durations: seconds of each sample.
        rejected: reasons, by sample, of those that could not be encoded.
    """

    shards: Sequence[Written]
    durations: Mapping[int, float]
    rejected: Mapping[int, str]


class Journal:
    """Notes in the target folder, from which an interrupted build goes on."""

    def __init__(self, target: Target, name: str, options: Mapping[str, Any]) -> None:
        """Note nothing yet.

        Args:
            options: with ``name``, what tells this dataset from others; JSON values.
        """
        self._target, self._overwrite = target, False
        self._sizes: dict[str, int] = {}
        self._identity = json.loads(json.dumps({"name": name, "options": options}))

    def refuse_other_data(self, *, overwrite: bool) -> None:
        """Look at the folder, and write nothing.

        Raises:
            ManifestError: if it holds something else, unless ``overwrite``.
        """
        self._overwrite = overwrite
        names = self._target.names()
        if overwrite or not any(n in (NAME, BEGUN) or n.endswith(".tar") for n in names):
            return
        if NAME in names:
            manifest = self._manifest()
            found = {"name": manifest.name, "options": dict(manifest.options)}
        elif BEGUN in names:
            found = self._begun()
        else:
            found = {}
        if found != self._identity:
            raise ManifestError(
                f"{self._target.url}: holds {_difference(found, self._identity)}; "
                "choose another folder, or pass --overwrite to replace it"
            )

    def finished(self) -> Manifest | None:
        """The manifest, if the dataset is complete.

        Raises:
            ManifestError: if the manifest is there but a shard is missing or of another size.
        """
        if self._overwrite or NAME not in self._target.names():
            return None
        manifest = self._manifest()
        sizes = self._target.sizes()
        for shard in manifest.shards:
            if sizes.get(shard.url) != shard.filesize or f"{shard.url}.idx" not in sizes:
                raise ManifestError(
                    f"{self._target.url}/{shard.url}: missing or not {shard.filesize} bytes as "
                    "the manifest says; make the dataset anew with --overwrite"
                )
        return manifest

    def begin(self) -> None:
        """Clear away what is to be overwritten or came in part; note what is being made."""
        self._target.remove_partials()
        if self._overwrite and not self._is_begun():
            clear(self._target)
        self._sizes = self._target.sizes()
        if BEGUN not in self._sizes:
            self._target.write(BEGUN, json.dumps(self._identity).encode())

    def group(self, number: int, planned: Sequence[Sequence[int]], *, first: int) -> Done | None:
        """What an earlier run made of a group, if all of it is there and planned as it is now.

        A plan goes by measured sizes, which another version of a codec may change.

        Args:
            planned: samples of each shard, in order.
            first: number of its first shard.
        """
        done = self._done(_group_name(number)) if _group_name(number) in self._sizes else None
        if done is None:
            return None
        expected = kept_samples(planned, done.rejected)
        if [shard.samples for shard in done.shards] != expected:
            return None
        names = [shard_name(first + place) for place in range(len(expected))]
        whole = [shard.info.url for shard in done.shards] == names and self._has_all(done.shards)
        return done if whole else None

    def has(self, name: str, size: int | None, sha256: str | None) -> bool:
        """Whether an earlier run put this very file into the target."""
        return self._sizes.get(name) == size and self._target.sha256(name) == sha256

    def finish_group(self, number: int, done: Done) -> None:
        """Note a group whose shards are all in the target."""
        self._target.write(_group_name(number), json.dumps(asdict(done)).encode())

    def rejected(self) -> dict[int, str]:
        """Reasons, by sample, of all that finished groups left out."""
        names = filter(_is_group, self._target.names())
        notes = [done for name in names if (done := self._done(name)) is not None]
        return {index: reason for done in notes for index, reason in done.rejected.items()}

    def remove_other_shards(self, shards: Collection[str]) -> None:
        """Remove what an earlier run, planned otherwise, left beside the shards of this one."""
        remove_other_shards(self._target, shards)

    def end(self) -> None:
        """Remove the notes: the manifest is there."""
        for name in self._target.names():
            if name == BEGUN or _is_group(name):
                self._target.remove(name)
        _remove_encoded(self._target)

    def _done(self, name: str) -> Done | None:
        """What a note says; None if it is torn, or another version's."""
        try:
            note = json.loads(self._target.read(name))
            shards = [
                Written(ShardInfo(**shard["info"]), tuple(shard["samples"]), shard["index_sha256"])
                for shard in note["shards"]
            ]
            return Done(shards, _by_index(note["durations"]), _by_index(note["rejected"]))
        except (KeyError, TypeError, ValueError):
            return None

    def _has_all(self, shards: Sequence[Written]) -> bool:
        """Whether all shards are there; what may not have been uploaded is read back."""
        infos = [shard.info for shard in shards]
        sizes = self._sizes
        indexes = [sizes.get(f"{info.url}.idx") == 8 * (info.nsamples + 1) for info in infos]
        if not all(indexes) or any(sizes.get(info.url) != info.filesize for info in infos):
            return False
        if self._target.on_disk:
            return True
        files = [(info.url, info.sha256) for info in infos]
        files += [(f"{shard.info.url}.idx", shard.index_sha256) for shard in shards]
        pool = ThreadPoolExecutor(_READERS)
        try:
            return all(pool.map(lambda file: self._target.sha256(file[0]) == file[1], files))
        finally:  # an interrupt waits for no reader of a mount that is gone
            pool.shutdown(wait=False, cancel_futures=True)

    def _is_begun(self) -> bool:
        """Whether this very build was begun, and so has cleared the folder."""
        names = self._target.names()
        begun = BEGUN in names and NAME not in names
        return begun and self._begun() == self._identity

    def _begun(self) -> dict[str, Any]:
        """What the note of a build that was begun says; nothing if it is torn."""
        try:
            found = json.loads(self._target.read(BEGUN))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _manifest(self) -> Manifest:
        return load_manifest(self._target.read(NAME), name=f"{self._target.url}/{NAME}")


def remove_other_shards(target: Target, shards: Collection[str]) -> None:
    """Remove shards, and their indexes, that are not among those of a manifest."""
    for name in target.names():
        if _is_shard(name) and name.removesuffix(".idx") not in shards:
            target.remove(name)


def clear(target: Target) -> None:
    """Remove what a build made in a folder, the manifest first."""
    for name in sorted(target.names(), key=lambda name: name != NAME):
        if _is_ours(name):
            target.remove(name)
    _remove_encoded(target)
    remove_card(target)
    target.remove_if_empty()


def other_datasets(target: Target, splits: Collection[str], *, overwrite: bool) -> list[Target]:
    """Datasets in a folder beside which the ones to be made would lie, and which may be replaced.

    A folder holds a dataset or its splits.

    Args:
        splits: to be made; empty if the folder itself is to be a dataset.

    Raises:
        ManifestError: if there is one, unless ``overwrite`` and it was made by a build.
    """
    folders = [name for name in target.names() if "." not in name and name not in splits]
    found = [target.child(name) for name in folders]
    others = [one for one in ([target] if splits else []) + found if _holds_dataset(one)]
    for other in others:
        if not (overwrite and _is_made_here(other)):
            raise ManifestError(
                f"{target.url}: holds {other.url}, a dataset of other splits; choose another "
                "folder, or pass --overwrite to replace it"
            )
    return others


def kept_samples(
    planned: Sequence[Sequence[int]], rejected: Collection[int]
) -> list[tuple[int, ...]]:
    """Samples of each shard without those rejected; shards of which nothing stays are left out."""
    kept = [tuple(index for index in shard if index not in rejected) for shard in planned]
    return [shard for shard in kept if shard]


def _remove_encoded(target: Target) -> None:
    folder = target.child(ENCODED)
    for name in folder.names():
        folder.remove(name)
    folder.remove_if_empty()


def _holds_dataset(target: Target) -> bool:
    return not {NAME, BEGUN}.isdisjoint(target.names())


def _is_made_here(target: Target) -> bool:
    """Whether the dataset that a folder holds, or the beginning of one, is of this packer."""
    if NAME not in target.names():
        return True
    manifest = load_manifest(target.read(NAME), name=f"{target.url}/{NAME}")
    return bool(manifest.packer_version)


def _group_name(number: int) -> str:
    return f"build-group-{number:05d}.json"


def _is_group(name: str) -> bool:
    return name.startswith("build-group-") and name.endswith(".json")


def _is_shard(name: str) -> bool:
    return name.startswith("shard-") and name.endswith((".tar", ".tar.idx"))


def _is_ours(name: str) -> bool:
    """Whether a build makes files of this name."""
    return _is_shard(name) or _is_group(name) or name in (NAME, KEYS, BEGUN)


def _by_index(values: Mapping[str, Any]) -> dict[int, Any]:
    return {int(index): value for index, value in values.items()}


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, what sets the dataset found apart from the one to be made."""
    if not found:
        return "tars that are no dataset of this packer"
    if found.get("name") != wanted["name"]:
        return f"another dataset, {found.get('name')!r} and not {wanted['name']!r}"
    old, new = found.get("options", {}), wanted["options"]
    differ = (name for name in {**old, **new} if old.get(name) != new.get(name))
    names = [name for name in differ if name != PARTS]  # of other annotations, by all means
    changes = [
        "other annotations" if name == "input_sha256" else f"{name}={old.get(name)!r}"
        for name in names
    ]
    return f"a dataset of {', '.join(changes)}"
