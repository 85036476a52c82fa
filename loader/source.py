"""What a dataset URL names: its shards in order, and what its manifest says of them."""

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from loader.catalog import Catalog, Folder
from loader.order import Positions
from loader.parsed import Parsed, read_manifest
from loader.patience import retry, within
from loader.transfer import open_url
from loader.version import version_of
from shards.errors import FetchError, ManifestError
from shards.hints import COMPRESSED, UNPACK
from shards.manifest import NAME, Manifest, ShardInfo, ShardTable

Options = dict[str, Any] | None

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset: shards, and the manifest where there is one.

    Attributes:
        name: the URL it was asked for by, for messages.
        shards: in stored order.
        options: passed to fsspec.
    """

    name: str
    shards: Catalog
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def manifests(self) -> list[Manifest]:
        """Of the folders it is made of; none for tars that somebody else wrote."""
        return [f.manifest for f in self.shards.folders if f.manifest is not None]

    @property
    def fingerprint(self) -> str:
        """Identity of the content, wherever it lies; see ``shards.manifest.fingerprint``."""
        return self.shards.fingerprint

    @property
    def rows(self) -> Positions:
        """(S,) samples of each shard."""
        return self.shards.rows

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else wrote any of its shards: no manifest tells what these hold."""
        return any(folder.is_foreign for folder in self.shards.folders)


def open_source(
    shards: str | Path | Sequence[str | Path],
    options: Options = None,
    *,
    cache_dir: Path | None = None,
) -> Source:
    """The dataset at one URL, or several end to end.

    Args:
        shards: URL of a folder with a manifest, of a manifest, or of tars (a glob or
            ``{000000..000099}``), or a list of these. What lies on this machine under a name
            as it is written is that, braces, brackets and endings notwithstanding.
        options: passed to fsspec.
        cache_dir: where large manifests are kept as they were parsed, if anywhere.

    Raises:
        ManifestError: if a manifest is missing or damaged.
        FetchError: if a URL cannot be read.
    """
    urls = [shards] if isinstance(shards, str | Path) else list(shards)
    if not urls:
        raise ValueError("shards is an empty list: name at least one dataset")
    folders = [
        replace(folder, asked=str(url))
        for url in urls
        for folder in _folders(str(url), options, cache_dir)
    ]
    return Source(", ".join(map(str, urls)), Catalog.of(folders), options or {})


def is_local_system(fs: Any) -> bool:
    """Whether a file system's paths are this machine's own."""
    return type(fs) is LocalFileSystem


def take_subset(source: Source, samples: int) -> Source:
    """The first ``samples`` in a fixed order of shards: by SHA-256 of the shard's name.

    Smaller subsets lie inside larger ones, and as few shards as possible are touched.

    Raises:
        ValueError: unless ``samples`` lies between 1 and the size of the dataset.
    """
    rows, total = source.rows, int(source.rows.sum())
    if not 1 <= samples <= total:
        raise ValueError(f"subset must be between 1 and the {total} samples, got {samples}")
    hashes = [sha256(name.encode()).digest() for name in source.shards.names]
    ranked = np.array(sorted(range(len(hashes)), key=lambda i: (hashes[i], i)))
    before = np.cumsum(rows[ranked]) - rows[ranked]
    ranked = ranked[before < samples]
    taken = np.minimum(rows[ranked], samples - before[before < samples])
    order = np.argsort(ranked)
    return replace(source, shards=source.shards.take(ranked[order], taken[order]))


def _folders(url: str, options: Options, cache_dir: Path | None) -> list[Folder]:
    named = url.endswith((".json", ".tar")) or any(character in url for character in "*{")
    if named and not _is_here(url, options, Path.is_dir):
        if url.endswith(".json"):
            return [_with_manifest(url.rpartition("/")[0] or ".", url, options, cache_dir)]
        return [_tar(tar, options) for tar in _expand(url, options)]
    if url.endswith(COMPRESSED):
        raise FetchError(f"{url}: is compressed, and shards are read here and there: {UNPACK}")
    manifest_url = f"{url.rstrip('/')}/{NAME}"
    try:
        return [_with_manifest(url, manifest_url, options, cache_dir)]
    except FileNotFoundError:
        return _without_manifest(url, options)


def _with_manifest(folder: str, url: str, options: Options, cache_dir: Path | None) -> Folder:
    parsed = read_manifest(url, options, cache_dir)
    fs, path = open_url(folder, options)
    return Folder(
        name=_cache_name(parsed.manifest.name, _identity(parsed, str(fs.unstrip_protocol(path)))),
        prefix=folder.rstrip("/") + "/",
        local=Path(path) if is_local_system(fs) else None,
        infos=ShardTable.of(parsed.manifest.shards),
        fingerprint=parsed.fingerprint,
        manifest=parsed.manifest,
    )


def _without_manifest(url: str, options: Options) -> list[Folder]:
    """The tars of a folder that has no manifest."""
    fs, path = open_url(url, options)
    try:
        names = [
            str(name).rstrip("/")
            for name in retry(partial(within, lambda: fs.ls(path, detail=False)), url)
        ]
    except (FileNotFoundError, NotADirectoryError):
        raise FetchError(f"{url}: no such dataset folder") from None
    tars = sorted(name for name in names if name.endswith(".tar"))
    if not tars:
        splits = [s for s in ("train", "val", "test") if any(n.endswith("/" + s) for n in names)]
        packed = [name for name in names if name.endswith(COMPRESSED)]
        hint = (
            f"it has {', '.join(s + '/' for s in splits)}: name one of them"
            if splits
            else f"{packed[0].rpartition('/')[2]} is compressed: {UNPACK}"
            if packed
            else "make one with: python -m packer build"
        )
        raise ManifestError(f"{url}: neither {NAME} nor tars are in it; {hint}")
    here = [tar for tar in tars if _lies_in(str(tar), str(path))]
    if here != tars:
        elsewhere = next(tar for tar in tars if tar not in here)
        raise FetchError(f"{url}: lists {elsewhere!r}, which lies elsewhere: name its folder, too")
    return [_tar(fs.unstrip_protocol(tar), options) for tar in tars]


def _lies_in(path: str, folder: str) -> bool:
    """Whether a listed path is a file of the folder: a web server may list anything."""
    inner = path.removeprefix(folder.rstrip("/") + "/")
    return inner != path and not re.search(r"/|\\|%2f|%5c|%2e%2e", inner, re.IGNORECASE)


def _tar(url: str, options: Options) -> Folder:
    """A tar that somebody else wrote: its samples are counted when it is indexed."""
    fs, path = open_url(url, options)
    try:
        about = retry(partial(within, lambda: fs.info(path)), url)
    except FileNotFoundError:
        raise FetchError(f"{url}: no such shard") from None
    if about["type"] == "directory":
        raise FetchError(f"{url}: is a folder, not a tar")
    name = url.rpartition("/")[2]
    version = version_of(about) or {"ukey": fs.ukey(path)}
    identity = sha256(repr([str(fs.unstrip_protocol(path)), about["size"], version]).encode())
    return Folder(
        name=_cache_name(name.removesuffix(".tar"), identity.hexdigest()),
        prefix=url.removesuffix(name),
        local=Path(path).parent if is_local_system(fs) else None,
        infos=ShardTable.of([ShardInfo(name, -1, about["size"])]),
    )


def _identity(parsed: Parsed, url: str) -> str:
    """What tells a dataset from others in a cache: all its hashes, or else where it lies.

    Without hashes another dataset could claim to be this one, and its shards would be taken.
    """
    if ShardTable.of(parsed.manifest.shards).hashed.all():
        return parsed.fingerprint
    return sha256(f"{url} {parsed.fingerprint}".encode()).hexdigest()


def _cache_name(name: str, identity: str) -> str:
    """Of a folder in the cache: told apart by people and by programs."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:40] + "-" + identity[:24]


def _is_here(url: str, options: Options, holds: Callable[[Path], bool]) -> bool:
    """Whether a URL is a path of this machine, of which something holds as it is written.

    Of a name that is longer than any file's, as a pattern's may be, nothing does.
    """
    fs, path = open_url(url, options)
    if not is_local_system(fs):
        return False

    def holds_here() -> bool:
        try:
            return holds(Path(path))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise

    return retry(partial(within, holds_here), url)


def _expand(url: str, options: Options) -> list[str]:
    """URLs that braces and globs stand for, in order; a file of just that name is itself."""
    if not any(character in url for character in "*?[{") or _is_here(url, options, Path.exists):
        return [url]
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
    found = sorted(str(name) for name in retry(partial(within, lambda: fs.glob(path)), url))
    if not found:
        raise FetchError(f"{url}: no shard matches")
    return [fs.unstrip_protocol(name) for name in found]
