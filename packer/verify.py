"""Reads a dataset back, all of it: sizes, hashes, indexes, keys, and every member decoded."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packer.audio import EXTENSIONS, decode
from packer.spread import spread
from packer.target import Target
from shards.errors import DataError, DecodeError, ManifestError
from shards.index import parse_index
from shards.keys import keys_bytes
from shards.manifest import NAME, Manifest, ShardInfo, load_manifest
from shards.notes import parse_midi
from shards.reader import ShardReader


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in one dataset; without faults it is whole."""

    url: str
    shards: int
    samples: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Checked:
    """One shard: its keys in order, and what is wrong with it."""

    keys: tuple[str, ...]
    faults: tuple[str, ...]


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
    target = Target(url, storage_options)
    names = target.names()
    folders = [name for name in names if "." not in name]
    splits = [name for name in folders if NAME in target.child(name).names()]
    if NAME not in names and not splits:
        raise ManifestError(f"{url}: no {NAME} in it, nor in a folder below: not a dataset")
    for one in [target] if NAME in names else map(target.child, splits):
        yield _verify_one(one, storage_options, workers, progress)


def _verify_one(
    target: Target, options: dict[str, Any] | None, workers: int | None, progress: bool
) -> Verified:
    manifest = load_manifest(target.read(NAME), name=f"{target.url}/{NAME}")
    check = partial(_check_shard, url=target.url, options=options, manifest=manifest)
    results = list(
        spread(check, manifest.shards, workers=workers, label="shards", progress=progress)
    )
    faults = [fault for result in results for fault in result.faults]
    ours = bool(manifest.packer_version)  # sets of others have no keys.bin
    faults += _check_keys(target, [result.keys for result in results], not faults, ours)
    samples = sum(len(result.keys) for result in results)
    return Verified(target.url, len(results), samples, tuple(faults))


def _check_keys(target: Target, keys: list[tuple[str, ...]], whole: bool, ours: bool) -> list[str]:
    """Faults of the keys: one twice, or ``keys.bin`` not of these shards."""
    seen: set[str] = set()
    faults = []
    for key in (key for shard in keys for key in shard):
        if key in seen:
            faults.append(f"{target.url}: key {key!r} comes twice")
        seen.add(key)
    if "keys.bin" not in target.names():
        faults += [f"{target.url}/keys.bin: is missing"] if ours else []
    elif whole and target.read("keys.bin") != keys_bytes(keys):
        faults.append(f"{target.url}/keys.bin: is not that of these shards")
    return faults


def _check_shard(
    info: ShardInfo, *, url: str, options: dict[str, Any] | None, manifest: Manifest
) -> _Checked:
    target, name = Target(url, options), f"{url}/{info.url}"
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        try:
            path = target.fetch(info.url, Path(folder))
            faults = list(_check_bytes(path, info, name))
            with ShardReader(path) as reader:
                faults += _check_index(target, info, reader, name)
                keys = tuple(reader.members(row)[0].key for row in range(len(reader)))
                for row in range(len(reader)):
                    faults += _check_sample(reader, row, manifest, name)
        except (DataError, OSError) as error:
            return _Checked((), (f"{name}: {error}",))
    return _Checked(keys, tuple(faults))


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
    size = reader.path.stat().st_size
    offsets = parse_index(data, samples=len(reader), tar_bytes=size, name=f"{name}.idx").tolist()
    *starts, end = reader.offsets.tolist()
    if offsets not in ([*starts, end], [*starts, size]):  # the latter is Lhotse's
        yield f"{name}.idx: its offsets are not those of the tar"


def _check_sample(reader: ShardReader, row: int, manifest: Manifest, name: str) -> Iterator[str]:
    key = reader.members(row)[0].key
    try:
        members = reader.read(row)
        missing = set(manifest.fields.values()) - members.keys()
        if missing:
            raise DecodeError(f"has no member .{min(missing)}")
        meta = json.loads(members["json"]) if "json" in members else {}
        for extension in EXTENSIONS.values():
            if extension in members:
                _check_audio(members[extension], extension, meta)
        if "mid" in members:
            parse_midi(members["mid"])
    except (DecodeError, ValueError, RecursionError) as error:
        yield f"{name}: sample {key!r}: {error}"


def _check_audio(data: bytes, extension: str, meta: dict[str, Any]) -> None:
    samples, rate = decode(data, extension)
    frames, expected = meta.get("frames"), meta.get("sample_rate")
    if frames is not None and len(samples) != frames:
        raise DecodeError(f"audio decodes to {len(samples)} frames, its JSON says {frames}")
    if rate is not None and expected is not None and rate != expected:
        raise DecodeError(f"audio is at {rate} Hz, its JSON says {expected}")
