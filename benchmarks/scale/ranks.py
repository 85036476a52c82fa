"""An epoch of many ranks in one process: who gets which samples, and which shards a node fetches.

The loader's own plan is walked for every rank; nothing is read. A node fetches each shard that one
of its ranks wants once: its cache holds the shards that are being mixed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loader.mixture import Mixture
from loader.order import Order, Shuffle
from loader.source import Source, open_source
from loader.stats import Stats
from loader.steps import Places, Steps
from loader.store import ShardStore
from loader.world import World, step_count
from shards.manifest import NAME, Manifest, ShardInfo, dump_manifest

BATCH, SHUFFLE, NODE_RANKS = 16, 1000, 8
RANKS, QUICK_RANKS = (1, 2, 4, 8, 16, 32, 64), (1, 8, 64)
SHARDS, QUICK_SHARDS = 4000, 1000
SAMPLE_BYTES, SHARD_SAMPLES = 126_000, (200, 300)  # ten seconds of FLAC; shards differ in length
MOST_FETCHED = 1.1  # times the dataset


def measure(work: Path, *, quick: bool) -> list[dict[str, Any]]:
    """A row for each world: 8 ranks a node and 1 rank a node; then one that changes its nodes."""
    source = _source(work, QUICK_SHARDS if quick else SHARDS)
    ranks = QUICK_RANKS if quick else RANKS
    worlds = [(n, min(n, NODE_RANKS)) for n in ranks] + [(n, 1) for n in ranks if n > 1]
    rows = [_row(source, size, local) for size, local in worlds]
    rows.append(_row(source, 32, 8, streams=8, from_half=True))
    return rows


def _row(
    source: Source, size: int, local: int, *, streams: int = 0, from_half: bool = False
) -> dict[str, Any]:
    """What the ranks of one world get, in the whole epoch or the second half of it.

    Args:
        streams: nodes that the run began with; 0 is as many as there are.
    """
    nodes = size // local
    plan = _Plan(source, SHUFFLE, streams or nodes)
    start = plan.samples // 2 if from_half else 0
    worlds = [World(rank, size, local) for rank in range(size)]
    samples, batches = [0] * size, [0] * size
    shards: list[set[int]] = [set() for _ in range(nodes)]
    seen = np.zeros(plan.samples, dtype=np.int64)
    for step in plan.steps(worlds, start):
        for rank, places in enumerate(step):
            samples[rank] += len(places.rows)
            batches[rank] += 1
            shards[rank // local].update(places.shards.tolist())
            np.add.at(seen, plan.numbers(places), 1)
    assert seen.max() == 1, "a sample came twice"
    assert seen.sum() == plan.samples - start, "a sample did not come"
    whole = float(plan.sizes.sum()) * (1 - start / plan.samples)
    fetched = [float(plan.sizes[list(node)].sum()) / whole for node in shards]
    row = {
        "ranks": size,
        "nodes": nodes,
        "began with nodes": streams or nodes,
        "part of the epoch": "second half" if from_half else "all",
        "batches of a rank": [min(batches), max(batches)],
        "samples of a rank": [min(samples), max(samples)],
        "fetched by a node": [round(min(fetched), 4), round(max(fetched), 4)],
        "fetched by all": round(sum(fetched), 4),
    }
    assert from_half or row["fetched by all"] <= MOST_FETCHED, row
    print(row, flush=True)
    return row


class _Plan:
    """The order of an epoch, and the steps of all its ranks side by side."""

    def __init__(self, source: Source, shuffle: Shuffle, streams: int) -> None:
        self._mixture = Mixture([Order(source.rows, shuffle=shuffle, streams=streams)])
        self._store = ShardStore([source], None, Stats())
        self._firsts = np.concatenate([[0], np.cumsum(source.rows)])
        self.samples, self.sizes = len(self._mixture), source.shards.sizes

    def steps(self, worlds: list[World], start: int) -> Iterator[tuple[Places, ...]]:
        """What each rank reads, step by step; the last step may be short."""
        left = self.samples - start
        count = step_count(left, batch_size=BATCH, world=worlds[0], drop_last=False)
        ranks = [
            Steps(
                self._store,
                self._mixture,
                world,
                epoch=1,
                position=start,
                batch_size=BATCH,
                steps=count,
            )
            for world in worlds
        ]
        return zip(*ranks, strict=True)

    def numbers(self, places: Places) -> NDArray[np.int64]:
        """Of the samples, in stored order."""
        found: NDArray[np.int64] = self._firsts[places.shards] + places.rows
        return found


def _source(work: Path, shards: int) -> Source:
    """Shards of different length, which are listed only."""
    folder = work / f"listed-{shards}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(0).integers(*SHARD_SAMPLES, size=shards).tolist()
    infos = [
        ShardInfo(f"shard-{n:06d}.tar", count, count * SAMPLE_BYTES) for n, count in enumerate(rows)
    ]
    manifest = Manifest("ranks", infos, fields={"audio": "flac"}, packer_version="benchmark")
    (folder / NAME).write_bytes(dump_manifest(manifest))
    return open_source(folder)
