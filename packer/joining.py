"""What samples that join a dataset have to be like, and which of its shards joined it later."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packer.target import Target
from shards.errors import ManifestError
from shards.manifest import Manifest, ShardInfo
from shards.reader import ShardReader
from shards.records import COMPUTED, Layout

PARTS = "parts"  # among a manifest's options, once something was appended
UNDIVIDED: dict[str, Any] = {"split": {}, "split_by": None, "group_by": None}  # options of a part
_EXAMPLES = {"float": 0.0, "number": 0, "string": "", "boolean": False, "array": [], "": None}


@dataclass(frozen=True, slots=True)
class Joined:
    """The dataset that new samples are made for.

    Attributes:
        like: a record whose fields are all that samples may have.
        members: extension of each modality that samples have.
        taken: uint64 hashes of the keys that no new sample may have.
    """

    url: str
    like: Mapping[str, Any]
    members: Mapping[str, str]
    taken: NDArray[np.uint64]

    def require(self, members: Mapping[str, str]) -> None:
        """Raise ManifestError if new samples would have other members."""
        if members != self.members:
            raise ManifestError(
                f"{self.url}: its samples have {', '.join(self.members.values())}, but the new "
                f"ones {', '.join(members.values())}; all samples of a dataset have the same "
                "members"
            )


@dataclass(frozen=True, slots=True)
class Part:
    """Shards that were packed together, of one input."""

    input_sha256: str
    first: int
    shards: Sequence[ShardInfo]


def parts_of(manifest: Manifest) -> list[Part]:
    """What the dataset was built of, and then what each append has added."""
    whole = {"input_sha256": manifest.options["input_sha256"], "shards": len(manifest.shards)}
    parts: list[Part] = []
    for noted in manifest.options.get(PARTS, [whole]):
        first = parts[-1].first + len(parts[-1].shards) if parts else 0
        shards = manifest.shards[first : first + noted["shards"]]
        parts.append(Part(noted["input_sha256"], first, shards))
    return parts


def a_record(target: Target, shards: Iterable[ShardInfo], folder: Path) -> dict[str, Any]:
    """A record with all the fields that samples have, each of its type.

    Args:
        shards: those that are read.
        folder: for copies of remote ones.

    Raises:
        ManifestError: if the JSON of a sample cannot be read, or is unlike that of the others.
    """
    layout = Layout()
    for info in shards:
        path = target.fetch(info.url, folder)
        with ShardReader(path, samples=info.nsamples) as reader:
            try:
                for record in _records(reader):
                    layout.add(0, record)
            except (KeyError, RecursionError, ValueError) as error:
                raise ManifestError(
                    f"{target.url}/{info.url}: the JSON of a sample is not as it has to be: "
                    f"{error}; build the dataset anew"
                ) from error
        if path.parent == folder:
            path.unlink()
    record = _example(layout.outline())
    return {name: value for name, value in record.items() if name not in COMPUTED}


def _records(reader: ShardReader) -> Iterator[dict[str, Any]]:
    for row in range(len(reader)):
        member = {member.extension: member for member in reader.members(row)}["json"]
        yield json.loads(reader.read_at(member.start, member.size))


def _example(outline: Any) -> Any:
    """A value of a layout's outline."""
    if isinstance(outline, dict):
        return {name: _example(inner) for name, inner in outline.items()}
    return [_example(outline[0])] if isinstance(outline, list) else _EXAMPLES[outline]
