"""Tars that somebody else wrote: counted on first contact, and their indexes kept."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from loader.disk import write_whole
from loader.source import Shard, Source
from loader.store import ShardStore
from shards.errors import ShardError
from shards.index import index_bytes, parse_index
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
    if all(shard.rows >= 0 for shard in source.shards):
        return source
    shards = [_kept(shard, folder) for shard in source.shards]
    unknown = [number for number, shard in enumerate(shards) if shard.rows < 0]
    if unknown:
        store = open_store(source)
        try:
            for number in tqdm(unknown, "indexing", unit="shard", disable=None, leave=False):
                with store.reader(number) as reader:
                    shards[number] = _keep(shards[number], reader, folder)
        finally:
            store.close()
    return replace(source, shards=tuple(shards))


def _kept(shard: Shard, folder: Path | None) -> Shard:
    """The shard as an index says that was kept earlier; the same shard if there is none."""
    if folder is None or shard.rows >= 0:
        return shard
    path = _index_path(shard, folder)
    try:
        data = path.read_bytes()
        samples, size = max(0, len(data) // 8 - 1), shard.info.filesize
        parse_index(data, samples=samples, tar_bytes=size or 2**63, name=str(path))
    except FileNotFoundError:
        return shard
    except (OSError, ShardError) as error:
        log.warning("%s; the tar is scanned", error)
        return shard
    return _counted(shard, samples, path)


def _keep(shard: Shard, reader: ShardReader, folder: Path | None) -> Shard:
    if folder is None:
        return _counted(shard, len(reader), None)
    path = _index_path(shard, folder)
    try:
        write_whole(path, index_bytes(reader.offsets))
    except OSError as error:  # reading in place needs no cache that can be written
        log.warning(
            "the index of %s cannot be kept, it is scanned every time: %s", shard.url, error
        )
        return _counted(shard, len(reader), None)
    return _counted(shard, len(reader), path)


def _counted(shard: Shard, samples: int, index: Path | None) -> Shard:
    info = replace(shard.info, nsamples=samples)
    return replace(shard, rows=samples, info=info, index=index)


def _index_path(shard: Shard, folder: Path) -> Path:
    """Beside the cached tar, if there is one, but it stays when that is evicted."""
    return folder / shard.folder / f"{shard.info.url.removesuffix('.tar')}.idx"
