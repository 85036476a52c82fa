"""Tars that somebody else wrote: counted on first contact, and their indexes kept."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from loader.catalog import Catalog, Folder
from loader.disk import write_whole
from loader.source import Source
from loader.store import ShardStore
from shards.errors import ShardError
from shards.index import index_bytes, parse_index
from shards.manifest import ShardTable
from shards.reader import ShardReader

log = logging.getLogger(__name__)


def count_samples(
    source: Source, folder: Path | None, open_store: Callable[[Source], ShardStore]
) -> Source:
    """The source with the samples of its tars counted.

    Args:
        folder: of the cache, where indexes are kept and found again; None scans every time.
        open_store: opens the source to scan what has no index yet.
    """
    if all(tar.is_counted for tar in source.shards.folders):
        return source
    tars = [_kept(tar, folder) for tar in source.shards.folders]
    firsts = [run.start for _, run in source.shards.runs()]
    unknown = [place for place, tar in enumerate(tars) if not tar.is_counted]
    if unknown:
        store = open_store(source)
        try:
            for place in tqdm(unknown, "indexing", unit="shard", disable=None, leave=False):
                with store.reader(firsts[place]) as reader:
                    tars[place] = _keep(tars[place], reader, folder)
        finally:
            store.close()
    return replace(source, shards=Catalog.of(tars))


def _kept(tar: Folder, folder: Path | None) -> Folder:
    """The tar as an index says that was kept earlier; the same tar if there is none."""
    if folder is None or tar.is_counted:
        return tar
    path = _index_path(tar, folder)
    try:
        data = path.read_bytes()
        samples, size = max(0, len(data) // 8 - 1), tar.infos[0].filesize
        parse_index(data, samples=samples, tar_bytes=size or 2**63, name=str(path))
    except FileNotFoundError:
        return tar
    except (OSError, ShardError) as error:
        log.warning("%s; the tar is scanned", error)
        return tar
    return _counted(tar, samples, path)


def _keep(tar: Folder, reader: ShardReader, folder: Path | None) -> Folder:
    if folder is None:
        return _counted(tar, len(reader), None)
    path = _index_path(tar, folder)
    try:
        write_whole(path, index_bytes(reader.offsets))
    except OSError as error:  # reading in place needs no cache that can be written
        url = tar.prefix + tar.infos.urls[0]
        log.warning("the index of %s cannot be kept, it is scanned every time: %s", url, error)
        return _counted(tar, len(reader), None)
    return _counted(tar, len(reader), path)


def _counted(tar: Folder, samples: int, index: Path | None) -> Folder:
    info = replace(tar.infos[0], nsamples=samples)
    return replace(tar, infos=ShardTable.of([info]), index=index)


def _index_path(tar: Folder, folder: Path) -> Path:
    """Beside the cached tar, if there is one, but it stays when that is evicted."""
    return folder / tar.name / f"{tar.infos.urls[0].removesuffix('.tar')}.idx"
