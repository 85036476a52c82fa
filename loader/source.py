"""What a dataset URL names: its shards in order, and what its manifest says of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from loader.order import Positions
from loader.transfer import open_url, read_url, retry
from shards import manifest as manifests
from shards.errors import FetchError, ManifestError
from shards.manifest import Manifest, ShardInfo, load_manifest

Options = dict[str, Any] | None

# names that file systems have for what changes with a file's content
_VERSION = {"mtime", "etag", "last-modified", "lastmodified", "last_modified", "modified"}
_VERSION |= {"updated", "generation", "md5hash", "content-md5", "blob_id", "sha"}
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar to read.

    Attributes:
        url: where it is; ``local`` is its path where that is this machine's file system.
        rows: how many of its samples belong to the dataset, the first ones.
        info: what the manifest says of it; ``nsamples`` is -1 until a foreign tar is indexed.
        folder: name of its folder in the cache.
        folder_url: its dataset's folder, where ``keys.bin`` is; empty for tars without a manifest.
        number: which shard of that dataset it is.
        index: where offsets of a tar without a manifest are kept, if they are.
    """

    url: str
    local: Path | None
    rows: int
    info: ShardInfo
    folder: str
    folder_url: str = ""
    number: int = 0
    index: Path | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset: shards, and the manifest where there is one.

    Attributes:
        name: the URL it was asked for by, for messages.
        shards: in stored order.
        manifests: of the folders it is made of; none for tars that somebody else wrote.
        options: passed to fsspec.
    """

    name: str
    shards: tuple[Shard, ...]
    manifests: tuple[Manifest, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Identity of the content, wherever it lies; see ``shards.manifest.fingerprint``."""
        return manifests.fingerprint(tuple(shard.info for shard in self.shards))

    @property
    def rows(self) -> Positions:
        """(S,) samples of each shard."""
        return np.array([shard.rows for shard in self.shards], dtype=np.int64)

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else wrote the shards, so that no manifest tells what they hold."""
        return not self.manifests or not all(manifest.fields for manifest in self.manifests)

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for m in self.manifests for name in m.labels))


def open_source(shards: str | Path | Sequence[str | Path], options: Options = None) -> Source:
    """The dataset at one URL, or several end to end.

    Args:
        shards: URL of a folder with a manifest, of a manifest, or of tars (a glob or
            ``{000000..000099}``), or a list of these.
        options: passed to fsspec.

    Raises:
        ManifestError: if a manifest is missing or damaged.
        FetchError: if a URL cannot be read.
    """
    urls = [shards] if isinstance(shards, str | Path) else list(shards)
    if not urls:
        raise ValueError("shards is an empty list: name at least one dataset")
    parts = [_open_one(str(url), options) for url in urls]
    return Source(
        name=", ".join(str(url) for url in urls),
        shards=tuple(shard for part in parts for shard in part.shards),
        manifests=tuple(manifest for part in parts for manifest in part.manifests),
        options=options or {},
    )


def is_local_system(fs: Any) -> bool:
    """Whether a file system's paths are this machine's own."""
    return type(fs) is LocalFileSystem


def take_subset(source: Source, samples: int) -> Source:
    """The first ``samples`` in a fixed order of shards: by SHA-256 of the shard's name.

    Smaller subsets lie inside larger ones, and as few shards as possible are touched.

    Raises:
        ValueError: unless ``samples`` lies between 1 and the size of the dataset.
    """
    total = int(source.rows.sum())
    if not 1 <= samples <= total:
        raise ValueError(f"subset must be between 1 and the {total} samples, got {samples}")
    names = [shard.url.rpartition("/")[2] for shard in source.shards]
    ranked = sorted(range(len(names)), key=lambda i: (sha256(names[i].encode()).digest(), i))
    taken: dict[int, int] = {}
    for number in ranked:
        taken[number] = min(source.shards[number].rows, samples)
        samples -= taken[number]
        if samples == 0:
            break
    kept = tuple(replace(source.shards[i], rows=taken[i]) for i in sorted(taken))
    return replace(source, shards=kept)


def _open_one(url: str, options: Options) -> Source:
    if url.endswith(".json"):
        return _from_manifest(url.rpartition("/")[0] or ".", url, options)
    if url.endswith(".tar") or any(character in url for character in "*{"):
        return _from_tars(url, _expand(url, options), options)
    manifest_url = f"{url.rstrip('/')}/{manifests.NAME}"
    try:
        return _from_manifest(url, manifest_url, options)
    except FileNotFoundError:
        return _without_manifest(url, options)


def _from_manifest(folder: str, url: str, options: Options) -> Source:
    try:
        manifest = load_manifest(read_url(url, options), name=url)
    except IsADirectoryError as error:
        raise ManifestError(f"{url}: is a folder") from error
    identity = manifests.fingerprint(manifest.shards)
    cache_folder = re.sub(r"[^A-Za-z0-9_-]", "-", manifest.name)[:40] + "-" + identity[:12]
    fs, path = open_url(folder, options)
    base = folder.rstrip("/")
    shards = tuple(
        Shard(
            url=f"{base}/{info.url}",
            local=Path(path) / info.url if is_local_system(fs) else None,
            rows=info.nsamples,
            info=info,
            folder=cache_folder,
            folder_url=base,
            number=number,
        )
        for number, info in enumerate(manifest.shards)
    )
    return Source(folder, shards, (manifest,), options or {})


def _without_manifest(url: str, options: Options) -> Source:
    """The tars of a folder that has no manifest."""
    fs, path = open_url(url, options)
    try:
        names = [str(name).rstrip("/") for name in retry(lambda: fs.ls(path, detail=False), url)]
    except (FileNotFoundError, NotADirectoryError):
        raise FetchError(f"{url}: no such dataset folder") from None
    tars = sorted(name for name in names if name.endswith(".tar"))
    if not tars:
        splits = [s for s in ("train", "val", "test") if any(n.endswith("/" + s) for n in names)]
        hint = (
            f"it has {', '.join(s + '/' for s in splits)}: name one of them"
            if splits
            else ("make one with: python -m packer build")
        )
        raise ManifestError(f"{url}: neither {manifests.NAME} nor tars are in it; {hint}")
    return _from_tars(url, [fs.unstrip_protocol(tar) for tar in tars], options)


def _from_tars(name: str, urls: list[str], options: Options) -> Source:
    """Tars that somebody else wrote: their samples are counted when they are indexed."""
    return Source(name, tuple(_foreign_shard(url, options) for url in urls), (), options or {})


def _foreign_shard(url: str, options: Options) -> Shard:
    fs, path = open_url(url, options)
    try:
        about = retry(lambda: fs.info(path), url)
    except FileNotFoundError:
        raise FetchError(f"{url}: no such shard") from None
    if about["type"] == "directory":
        raise FetchError(f"{url}: is a folder, not a tar")
    name = url.rpartition("/")[2]
    version = _version(about) or {"ukey": fs.ukey(path)}
    identity = sha256(repr([str(fs.unstrip_protocol(path)), about["size"], version]).encode())
    folder = (
        re.sub(r"[^A-Za-z0-9_-]", "-", name.removesuffix(".tar"))[:40]
        + "-"
        + identity.hexdigest()[:12]
    )
    local = Path(path) if is_local_system(fs) else None
    return Shard(url, local, -1, ShardInfo(name, -1, about["size"]), folder)


def _version(about: Mapping[str, Any]) -> dict[str, str]:
    """What a file system knows of a file's version, and not of links to it or readers of it."""
    return {name: str(about[name]) for name in sorted(about) if name.lower() in _VERSION}


def _expand(url: str, options: Options) -> list[str]:
    """URLs that braces and globs stand for, in order."""
    if match := _BRACES.search(url):
        low, high = match[1], match[2]
        if len(low) != len(high) or int(low) > int(high):
            raise ValueError(f"{url}: {match[0]} must count upwards with as many digits throughout")
        names = (f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1))
        parts = [url[: match.start()] + name + url[match.end() :] for name in names]
        return [expanded for part in parts for expanded in _expand(part, options)]
    if not any(character in url for character in "*?["):
        return [url]
    fs, path = open_url(url, options)
    found = sorted(str(name) for name in retry(lambda: fs.glob(path), url))
    if not found:
        raise FetchError(f"{url}: no shard matches")
    return [fs.unstrip_protocol(name) for name in found]
