"""``manifest.json``: what a dataset holds. A wids shard index with further keys."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, overload
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from shards import values
from shards.columns import Strings
from shards.errors import ManifestError, ShardError

NAME = "manifest.json"
FORMAT_VERSION = 1
_KIND = "wids-shard-index-v1"
_OWN_DIGEST = re.compile(rb',\n "sha256": "([^"\n]*)"\n}\n\Z')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FIELD = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")  # of a field's name, and of its extension
_MOST_SAMPLES = 1 << 24  # of a shard: their headers alone are 8 GB
_MOST_BYTES = 1 << 50  # of a shard
_MOST_BYTES_OF_ALL = 1 << 60


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One tar: its name relative to the manifest, samples, bytes, and SHA-256 where known."""

    url: str
    nsamples: int
    filesize: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ShardTable(Sequence[ShardInfo]):
    """What a manifest says of its shards, by columns; it is made into objects on demand.

    Attributes:
        urls: of S shards.
        nsamples: (S,) int64.
        filesize: (S,) int64 bytes, -1 where not known.
        sha256: of S shards, empty where not known.
        hashed: (S,) bool, whether it is known.
    """

    urls: Strings
    nsamples: NDArray[np.int64]
    filesize: NDArray[np.int64]
    sha256: Strings
    hashed: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Raise ValueError if the columns are no columns of one table."""
        columns = (self.urls, self.nsamples, self.filesize, self.sha256, self.hashed)
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"columns of {[len(column) for column in columns]} rows")
        numbers = (self.nsamples, self.filesize, self.hashed)
        if [array.dtype for array in numbers] != [np.int64, np.int64, np.bool_]:
            raise ValueError(f"columns of {[str(array.dtype) for array in numbers]}")

    @classmethod
    def of(cls, shards: Sequence[ShardInfo]) -> "ShardTable":
        """The table of some shards; OverflowError if a number needs more than 64 bits."""
        if isinstance(shards, ShardTable):
            return shards
        sizes = [-1 if shard.filesize is None else shard.filesize for shard in shards]
        return cls(
            urls=Strings.of(shard.url for shard in shards),
            nsamples=np.array([shard.nsamples for shard in shards], dtype=np.int64),
            filesize=np.array(sizes, dtype=np.int64),
            sha256=Strings.of(shard.sha256 or "" for shard in shards),
            hashed=np.array([shard.sha256 is not None for shard in shards], dtype=np.bool_),
        )

    @property
    def known_bytes(self) -> NDArray[np.int64]:
        """(S,) size of each shard, 0 where it is not known."""
        return np.maximum(self.filesize, 0)

    def __len__(self) -> int:
        return len(self.nsamples)

    @overload
    def __getitem__(self, index: int) -> ShardInfo: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ShardInfo, ...]: ...
    def __getitem__(self, index: int | slice) -> ShardInfo | tuple[ShardInfo, ...]:
        places = range(len(self))[index]
        return self._row(places) if isinstance(places, int) else tuple(map(self._row, places))

    def __iter__(self) -> Iterator[ShardInfo]:
        numbers = zip(self.nsamples.tolist(), self.filesize.tolist(), strict=True)
        hashes = zip(self.sha256, self.hashed.tolist(), strict=True)
        for url, (count, size), (digest, known) in zip(self.urls, numbers, hashes, strict=True):
            yield ShardInfo(url, count, None if size < 0 else size, digest if known else None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def _row(self, number: int) -> ShardInfo:
        size = int(self.filesize[number])
        return ShardInfo(
            self.urls[number],
            int(self.nsamples[number]),
            None if size < 0 else size,
            self.sha256[number] if self.hashed[number] else None,
        )


@dataclass(frozen=True, slots=True)
class LabelStats:
    """Population statistics of one label over the samples that have it."""

    count: int
    min: float
    max: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dataset: its shards in order, and what packing knows of it.

    Attributes:
        shards: a ``ShardTable`` where it was parsed.
        fields: extension of each modality, such as ``{"audio": "flac", "midi": "mid"}``; empty
            when the shards are somebody else's.
        labels: statistics by label name, in label order.
        options: the packing options that shaped the samples.
        duration_s: seconds of all samples together.
    """

    name: str
    shards: Sequence[ShardInfo]
    description: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, LabelStats] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0
    packer_version: str = ""

    @property
    def samples(self) -> int:
        return int(ShardTable.of(self.shards).nsamples.sum())

    @property
    def bytes(self) -> int:
        return int(ShardTable.of(self.shards).known_bytes.sum())


def dump_manifest(manifest: Manifest) -> bytes:
    """JSON of a manifest, at its end the SHA-256 of all before; equal ones give equal bytes."""
    document = {
        "__kind__": _KIND,
        "wids_version": 1,
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "description": manifest.description,
        "samples": manifest.samples,
        "duration_s": manifest.duration_s,
        "fields": dict(manifest.fields),
        "labels": {name: asdict(stats) for name, stats in manifest.labels.items()},
        "options": dict(manifest.options),
        "packer_version": manifest.packer_version,
        "shardlist": [asdict(shard) for shard in manifest.shards],
    }
    body = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()[:-2]
    return body + f',\n "sha256": "{sha256(body).hexdigest()}"\n}}\n'.encode()


def load_manifest(data: bytes, *, name: str) -> Manifest:
    """Parse and check a manifest; wids indexes of others are read too.

    Args:
        data: content of a ``manifest.json``.
        name: its path or URL, for errors.

    Raises:
        ManifestError: if it is damaged, of a newer version, or names shards outside its folder.
    """
    document = _parse(data, name)
    try:
        shards = ShardTable.of([_shard(entry) for entry in document["shardlist"]])
        labels = {name: _stats(name, own) for name, own in document.get("labels", {}).items()}
        manifest = Manifest(
            name=str(document.get("name", "")),
            shards=shards,
            description=str(document.get("description") or ""),
            fields=_fields(document.get("fields", {})),
            labels=labels,
            options=dict(document.get("options", {})),
            duration_s=_amount(document.get("duration_s", 0.0), "duration_s"),
            packer_version=str(document.get("packer_version", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ManifestError(f"{name}: damaged: {type(error).__name__}: {error}") from error
    for url in shards.urls:
        _require_inside(url, name)
    if manifest.bytes > _MOST_BYTES_OF_ALL:
        raise ManifestError(f"{name}: claims {manifest.bytes} bytes: too many to be true")
    return manifest


def require_size(name: str, found: int, told: int | None) -> None:
    """Refuse a shard that has not as many bytes as its manifest tells, where it does.

    Raises:
        ShardError: with both numbers.
    """
    if told is not None and found != told:
        raise ShardError(
            f"{name}: has {found} bytes, its manifest says {told}: truncated or of another "
            "version. Find out with: python -m packer verify"
        )


def fingerprint(shards: Iterable[ShardInfo]) -> str:
    """SHA-256 over each shard's base name, sample count and hash (or size), in order.

    It says whether two datasets are the same wherever they lie: the URL has no part in it.
    """
    digest = sha256()
    for shard in shards:
        base = shard.url.rpartition("/")[2]
        content = shard.sha256 if shard.sha256 is not None else shard.filesize
        digest.update(json.dumps([base, shard.nsamples, content]).encode())
    return digest.hexdigest()


def _parse(data: bytes, name: str) -> dict[str, Any]:
    own = _OWN_DIGEST.search(data)
    if own and sha256(data[: own.start()]).hexdigest().encode() != own[1]:
        raise ManifestError(
            f"{name}: damaged: its own SHA-256 is another. Copy it anew; if it was edited by hand, "
            'remove its last entry, "sha256"'
        )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("wids_version") != 1:
        raise ManifestError(f"{name}: not a shard index: wids_version 1 was expected")
    version = document.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ManifestError(
            f"{name}: format version {version} is newer than this program reads "
            f"({FORMAT_VERSION}): use the version of this program that made it"
        )
    return document


def _shard(entry: Mapping[str, Any]) -> ShardInfo:
    size, digest = entry.get("filesize"), entry.get("sha256")
    url, nsamples = str(entry["url"]), int(entry["nsamples"])
    if nsamples < 0 or (size is not None and int(size) < 0):
        raise ValueError(f"negative size of {url!r}")
    if nsamples > _MOST_SAMPLES or (size is not None and int(size) > _MOST_BYTES):
        raise ValueError(f"{url!r} claims {nsamples} samples in {size} bytes: too many to be true")
    return ShardInfo(
        url,
        nsamples,
        None if size is None else int(size),
        None if digest is None else str(digest),
    )


def _stats(name: str, entry: Mapping[str, Any]) -> LabelStats:
    stats = LabelStats(**entry)
    if any(values.number(value) is None for value in entry.values()):
        raise ValueError(f"statistics of label {name!r} are no numbers")
    return stats


def _fields(entry: Any) -> dict[str, str]:
    fields = dict(entry)
    for text in (*fields, *fields.values()):
        if not isinstance(text, str) or not _FIELD.fullmatch(text):
            raise ValueError(f"{text!r} is neither a field nor an extension")
    return fields


def _amount(value: Any, name: str) -> float:
    amount = values.number(value)
    if amount is None or amount < 0:
        raise ValueError(f"{name} must be a number from 0, got {value!r:.100}")
    return amount


def _require_inside(url: str, name: str) -> None:
    """Shards lie in the manifest's folder: a manifest must not make a reader open other places.

    Their names end with ``.tar``, so that none takes the place of another file in the cache.
    """
    plain = unquote(url)  # as a web server takes it
    elsewhere = _SCHEME.match(url) or plain.startswith(("/", "\\", "~")) or "://" in plain
    if not url or elsewhere or "\0" in plain or ".." in re.split(r"[/\\]", plain) or "::" in plain:
        raise ManifestError(f"{name}: shard {url!r} lies outside the dataset's folder")
    if _CONTROL.search(plain) or not url.endswith(".tar"):
        raise ManifestError(f"{name}: {url!r} is no name of a shard: it must end with .tar")
