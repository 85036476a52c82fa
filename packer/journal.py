"""What a target folder already holds: this dataset finished, or begun, or another one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from packer.shard import Written
from packer.target import Target
from shards.errors import ManifestError
from shards.manifest import NAME, Manifest, ShardInfo, load_manifest

_BEGUN = "build.json"


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
        self._identity = json.loads(json.dumps({"name": name, "options": options}))

    def refuse_other_data(self, *, overwrite: bool) -> None:
        """Look at the folder, and write nothing.

        Raises:
            ManifestError: if it holds something else, unless ``overwrite``.
        """
        self._overwrite = overwrite
        names = self._target.names()
        if overwrite or not any(n in (NAME, _BEGUN) or n.endswith(".tar") for n in names):
            return
        if NAME in names:
            manifest = self._manifest()
            found = {"name": manifest.name, "options": dict(manifest.options)}
        elif _BEGUN in names:
            found = json.loads(self._target.read(_BEGUN))
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
        for shard in manifest.shards:
            if not self._has(shard):
                raise ManifestError(
                    f"{self._target.url}/{shard.url}: missing or not {shard.filesize} bytes as "
                    "the manifest says; make the dataset anew with --overwrite"
                )
        return manifest

    def begin(self) -> None:
        """Clear away what is to be overwritten, and note what is being made."""
        if self._overwrite:
            for name in sorted(self._target.names(), key=lambda name: name != NAME):
                if _is_ours(name):
                    self._target.remove(name)
        self._target.write(_BEGUN, json.dumps(self._identity).encode())

    def group(self, number: int, planned: Sequence[Sequence[int]]) -> Done | None:
        """What an earlier run made of a group, if all of it is there and planned as it is now.

        A plan goes by measured sizes, which another version of a codec may change.
        """
        try:
            note = json.loads(self._target.read(_group_name(number)))
        except FileNotFoundError:
            return None
        shards = [
            Written(ShardInfo(**shard["info"]), tuple(shard["samples"])) for shard in note["shards"]
        ]
        done = Done(shards, _by_index(note["durations"]), _by_index(note["rejected"]))
        kept = [tuple(i for i in shard if i not in done.rejected) for shard in planned]
        as_planned = [shard.samples for shard in shards] == [shard for shard in kept if shard]
        return done if as_planned and all(self._has(shard.info) for shard in shards) else None

    def finish_group(self, number: int, done: Done) -> None:
        """Note a group whose shards are all in the target."""
        self._target.write(_group_name(number), json.dumps(asdict(done)).encode())

    def end(self) -> None:
        """Remove the notes: the manifest is there."""
        for name in self._target.names():
            if name == _BEGUN or _is_group(name):
                self._target.remove(name)

    def _manifest(self) -> Manifest:
        return load_manifest(self._target.read(NAME), name=f"{self._target.url}/{NAME}")

    def _has(self, shard: ShardInfo) -> bool:
        try:
            self._target.size(f"{shard.url}.idx")
            return self._target.size(shard.url) == shard.filesize
        except FileNotFoundError:
            return False


def _group_name(number: int) -> str:
    return f"build-group-{number:05d}.json"


def _is_group(name: str) -> bool:
    return name.startswith("build-group-") and name.endswith(".json")


def _is_ours(name: str) -> bool:
    """Whether a build makes files of this name."""
    shard = name.startswith("shard-") and name.endswith((".tar", ".tar.idx"))
    return shard or _is_group(name) or name in (NAME, "keys.bin", _BEGUN)


def _by_index(values: Mapping[str, Any]) -> dict[int, Any]:
    return {int(index): value for index, value in values.items()}


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, what sets the dataset found apart from the one to be made."""
    if not found:
        return "tars that are no dataset of this packer"
    if found.get("name") != wanted["name"]:
        return f"another dataset, {found.get('name')!r} and not {wanted['name']!r}"
    old, new = found.get("options", {}), wanted["options"]
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changes = [
        "other annotations" if name == "input_sha256" else f"{name}={old.get(name)!r}"
        for name in names
    ]
    return f"a dataset of {', '.join(changes)}"
