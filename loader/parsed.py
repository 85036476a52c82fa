"""Manifests as they were parsed: a large one is kept as arrays in the cache folder.

Reading arrays takes a fraction of the time and memory that parsing takes. A copy belongs to one URL
and to one version of what lies there, so it holds what was parsed and checked once. Manifests of up
to 1,000 shards are parsed every time, and leave nothing behind.
"""

import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from loader.disk import write_whole
from loader.patience import retry, within
from loader.transfer import open_url, read_url
from loader.version import exact_version
from shards.columns import Strings
from shards.manifest import LabelStats, Manifest, ShardTable, fingerprint, load_manifest
from shards.mounts import is_local

log = logging.getLogger(__name__)

_FOLDER = "manifests"
_FORMAT_VERSION = 2  # copies of the first were checked for less
_DIGEST_BYTES = sha256().digest_size
_WORTH_KEEPING = 1000  # shards; parsing fewer takes milliseconds


@dataclass(frozen=True, slots=True)
class Parsed:
    """A manifest, and the fingerprint of its shards."""

    manifest: Manifest
    fingerprint: str


def read_manifest(url: str, options: dict[str, Any] | None, cache_dir: Path | None) -> Parsed:
    """The manifest at a URL, out of its copy where there is one.

    Args:
        cache_dir: where copies are; None parses every time.

    Raises:
        ManifestError: if it is damaged.
        FileNotFoundError: if there is none.
        FetchError: if it cannot be read, or is a folder.
    """
    if cache_dir is None:
        return _parse(read_url(url, options), url)
    copy = _copy_path(cache_dir, url, options)
    # asked before it is read: what is replaced in between has another version next time
    version = _ask_version(url, options)
    if version and (parsed := _load(copy, version)):
        return parsed
    data = read_url(url, options)
    if not version:
        version = f"sha256 {sha256(data).hexdigest()}"
        if parsed := _load(copy, version):
            return parsed
    parsed = _parse(data, url)
    if len(parsed.manifest.shards) > _WORTH_KEEPING:
        _keep(copy, version, parsed)
    return parsed


def _parse(data: bytes, url: str) -> Parsed:
    manifest = load_manifest(data, name=url)
    return Parsed(manifest, fingerprint(manifest.shards))


def _ask_version(url: str, options: dict[str, Any] | None) -> str:
    """What tells this content of a file from others at its URL; empty if nothing does."""
    fs, path = open_url(url, options)
    fs.invalidate_cache(path)  # a listing of earlier would tell of an earlier version
    return exact_version(retry(partial(within, lambda: fs.info(path)), url))


def _copy_path(cache_dir: Path, url: str, options: dict[str, Any] | None) -> Path:
    """One a URL: the copy of a newer version takes the place of the older one's."""
    fs, path = open_url(url, options)
    name = sha256(str(fs.unstrip_protocol(path)).encode()).hexdigest()[:32]
    return cache_dir / _FOLDER / f"{name}.arrays"


def _load(copy: Path, version: str) -> Parsed | None:
    """What a copy holds, unless it is missing, of another version or damaged."""
    try:
        data = memoryview(copy.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        log.info("%s cannot be read, the manifest is parsed: %s", copy, error)
        return None
    digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if sha256(payload).digest() != digest:
        log.info("%s is damaged: the manifest is parsed", copy)
        return None
    with np.load(BytesIO(payload), allow_pickle=False) as columns:
        head = json.loads(columns["head"].tobytes())
        if (head["format_version"], head["version"]) != (_FORMAT_VERSION, version):
            log.info("%s is of another version: the manifest is parsed", copy)
            return None
        table = ShardTable(
            urls=Strings(columns["urls"], columns["url_ends"]),
            nsamples=columns["nsamples"],
            filesize=columns["filesize"],
            sha256=Strings(columns["sha256"], columns["sha256_ends"]),
            hashed=columns["hashed"],
        )
    labels = {name: LabelStats(**stats) for name, stats in head["labels"].items()}
    manifest = Manifest(shards=table, labels=labels, **head["manifest"])
    return Parsed(manifest, head["fingerprint"])


def _keep(copy: Path, version: str, parsed: Parsed) -> None:
    if not is_local(copy.parent):
        log.info("%s is on no local disk: the manifest is parsed every time", copy.parent)
        return
    try:
        write_whole(copy, _dump(version, parsed))
    except OSError as error:
        log.info("%s cannot be written, the manifest is parsed every time: %s", copy, error)


def _dump(version: str, parsed: Parsed) -> bytes:
    """SHA-256 of the rest, then an ``.npz`` of the columns and of a JSON head."""
    manifest, table = parsed.manifest, ShardTable.of(parsed.manifest.shards)
    head = {
        "format_version": _FORMAT_VERSION,
        "version": version,
        "fingerprint": parsed.fingerprint,
        "labels": {name: asdict(stats) for name, stats in manifest.labels.items()},
        "manifest": {
            "name": manifest.name,
            "description": manifest.description,
            "fields": dict(manifest.fields),
            "options": dict(manifest.options),
            "duration_s": manifest.duration_s,
            "packer_version": manifest.packer_version,
        },
    }
    target = BytesIO()
    np.savez(
        target,
        head=np.frombuffer(json.dumps(head).encode(), np.uint8),
        urls=table.urls.text,
        url_ends=table.urls.ends,
        nsamples=table.nsamples,
        filesize=table.filesize,
        sha256=table.sha256.text,
        sha256_ends=table.sha256.ends,
        hashed=table.hashed,
    )
    payload = target.getvalue()
    return sha256(payload).digest() + payload
