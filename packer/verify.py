"""Reads a dataset back, all of it: sizes, hashes, indexes, keys, and every member decoded."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from packer.audio import COPIED, NPY, measure
from packer.interrupt import interruptible
from packer.splits import split_targets
from packer.spread import spread
from packer.summary import alike, label_stats
from packer.table import check_notes
from packer.target import Target
from shards.errors import DataError, DecodeError
from shards.index import parse_index
from shards.keys import KEYS, keys_bytes
from shards.manifest import NAME, Manifest, ShardInfo, load_manifest
from shards.notes import read_notes
from shards.pcm import HIGHEST_RATE, LOWEST_RATE
from shards.reader import ShardReader

_AUDIO = (NPY, *COPIED)
_DURATION_S = 0.001  # the manifest rounds to it


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in one dataset; without faults it is whole.

    Attributes:
        bad: names of the shards that are at fault, or their indexes.
    """

    url: str
    shards: int
    samples: int
    faults: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sample:
    """What the totals of a dataset are made of."""

    key: str
    duration_s: float = 0.0
    labels: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Checked:
    """One shard: its samples in order, and what is wrong with it."""

    samples: tuple[_Sample, ...]
    faults: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(sample.key for sample in self.samples)


def verify(
    url: str,
    *,
    storage_options: dict[str, Any] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[Verified]:
    """Check a dataset, or every split of a folder of them.

    Raises:
        ManifestError: if there is no manifest, or it is damaged.
        FetchError: if the URL cannot be opened.
    """
    for one in split_targets(Target(url, storage_options)).values():
        yield _verify_one(one, storage_options, workers, progress)


def _verify_one(
    target: Target, options: dict[str, Any] | None, workers: int | None, progress: bool
) -> Verified:
    with interruptible():
        return _verified(target, options, workers, progress)


def _verified(
    target: Target, options: dict[str, Any] | None, workers: int | None, progress: bool
) -> Verified:
    data = target.read(NAME)
    manifest = load_manifest(data, name=f"{target.url}/{NAME}")
    check = partial(_check_shard, url=target.url, options=options, manifest=manifest)
    results = list(
        spread(check, manifest.shards, workers=workers, label="shards", progress=progress)
    )
    faults = [fault for result in results for fault in result.faults]
    samples = [sample for result in results for sample in result.samples]
    faults += _check_names(target, manifest)
    ours = bool(manifest.packer_version)  # sets of others have no keys.bin, and no totals
    whole = not faults
    faults += _check_keys(target, [result.keys for result in results], whole, ours)
    if ours and whole:
        faults += _check_totals(json.loads(data), manifest, samples, f"{target.url}/{NAME}")
    bad = [info.url for info, found in zip(manifest.shards, results, strict=True) if found.faults]
    return Verified(target.url, len(results), len(samples), tuple(faults), tuple(bad))


def _check_names(target: Target, manifest: Manifest) -> Iterator[str]:
    """Shards that the manifest does not name: whoever reads all tars of the folder reads them."""
    named = {shard.url for shard in manifest.shards}
    for name in target.names():
        if name.startswith("shard-") and name.endswith(".tar") and name not in named:
            yield f"{target.url}/{name}: the manifest does not name it"


def _check_keys(target: Target, keys: list[tuple[str, ...]], whole: bool, ours: bool) -> list[str]:
    """Faults of the keys: one twice, or ``keys.bin`` not of these shards."""
    seen: set[str] = set()
    faults = []
    for key in (key for shard in keys for key in shard):
        if key in seen:
            faults.append(f"{target.url}: key {key!r} comes twice")
        seen.add(key)
    if KEYS not in target.names():
        faults += [f"{target.url}/{KEYS}: is missing"] if ours else []
    elif whole and target.read(KEYS) != keys_bytes(keys):
        faults.append(f"{target.url}/{KEYS}: is not that of these shards")
    return faults


def _check_totals(
    document: Mapping[str, Any], manifest: Manifest, samples: Sequence[_Sample], name: str
) -> Iterator[str]:
    """What the manifest says of all samples together, against what was read of them."""
    if document.get("samples") != len(samples):
        yield f"{name}: says {document.get('samples')} samples, there are {len(samples)}"
    total_s = math.fsum(sample.duration_s for sample in samples)
    if abs(total_s - manifest.duration_s) > _DURATION_S:
        yield f"{name}: says {manifest.duration_s} s, the samples last {total_s:.3f} s"
    found = label_stats(list(manifest.labels), (dict(sample.labels) for sample in samples))
    for label, stats in manifest.labels.items():
        if not alike(stats, found[label]):
            yield f"{name}: label {label!r} has {found[label]}, it says {stats}"


def _check_shard(
    info: ShardInfo, *, url: str, options: dict[str, Any] | None, manifest: Manifest
) -> _Checked:
    target, name = Target(url, options), f"{url}/{info.url}"
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        faults: list[str] = []
        try:
            path = target.fetch(info.url, Path(folder))
            faults += _check_bytes(path, info, name)
            with ShardReader(path) as reader:
                faults += _check_index(target, info, reader, name)
                samples = [_Sample(reader.members(row)[0].key) for row in range(len(reader))]
                for row, sample in enumerate(samples):
                    try:
                        samples[row] = _read_sample(reader, row, manifest)
                    except (DecodeError, ValueError, RecursionError) as error:
                        faults.append(f"{name}: sample {sample.key!r}: {error}")
        except (DataError, OSError) as error:
            return _Checked((), (*faults, f"{name}: {error}"))
    return _Checked(tuple(samples), tuple(faults))


def _check_bytes(path: Path, info: ShardInfo, name: str) -> Iterator[str]:
    size = path.stat().st_size
    if info.filesize is not None and size != info.filesize:
        yield f"{name}: has {size} bytes, the manifest says {info.filesize}"
    if info.sha256 is not None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != info.sha256:
                yield f"{name}: its SHA-256 is not the manifest's"


def _check_index(target: Target, info: ShardInfo, reader: ShardReader, name: str) -> Iterator[str]:
    if len(reader) != info.nsamples:
        yield f"{name}: holds {len(reader)} samples, the manifest says {info.nsamples}"
    try:
        data = target.read(f"{info.url}.idx")
    except FileNotFoundError:
        yield f"{name}.idx: is missing"
        return
    size = reader.size
    offsets = parse_index(data, samples=len(reader), tar_bytes=size, name=f"{name}.idx").tolist()
    *starts, end = reader.offsets.tolist()
    if offsets not in ([*starts, end], [*starts, size]):  # the latter is Lhotse's
        yield f"{name}.idx: its offsets are not those of the tar"


def _read_sample(reader: ShardReader, row: int, manifest: Manifest) -> _Sample:
    """Decode every member of a sample.

    Raises:
        DecodeError: if one is damaged, missing, or not what its JSON says.
    """
    members = reader.read(row)
    missing = set(manifest.fields.values()) - members.keys()
    if missing:
        raise DecodeError(f"has no member .{min(missing)}")
    meta = json.loads(members["json"]) if "json" in members else {}
    if not isinstance(meta, dict):
        raise DecodeError(f"its JSON is {type(meta).__name__}, not an object")
    for extension in _AUDIO:
        if extension in members:
            _check_audio(members[extension], extension, meta)
    if "mid" in members:
        read_notes(members["mid"])
        if "notes.npy" in members:
            check_notes(members["notes.npy"], members["mid"], beat=meta.get("midi_beat") or 0.0)
    key = reader.members(row)[0].key
    return _Sample(key, meta.get("duration") or 0.0, meta.get("labels") or {})


def _check_audio(data: bytes, extension: str, meta: Mapping[str, Any]) -> None:
    frames, rate = measure(data, extension)
    due, due_rate = meta.get("frames"), meta.get("sample_rate")
    if due is not None and frames != due:
        raise DecodeError(f"audio decodes to {frames} frames, its JSON says {due}")
    if rate is not None and due_rate is not None and rate != due_rate:
        raise DecodeError(f"audio is at {rate} Hz, its JSON says {due_rate}")
    stored = due_rate if rate is None else rate  # a table of samples does not tell it
    if isinstance(stored, int | float) and not LOWEST_RATE <= stored <= HIGHEST_RATE:
        raise DecodeError(f"audio is at {stored} Hz; {LOWEST_RATE} to {HIGHEST_RATE} are read")
