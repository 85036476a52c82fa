"""Which sample goes into which split, group and shard. Pure: decided before anything is encoded."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from packer.segments import Segment

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recording:
    """Segments of one source file, which one worker reads together.

    Attributes:
        indices: which samples of the dataset they are.
        planned_bytes: what each of them is expected to take in a shard.
    """

    source: str
    indices: "array[int]"
    planned_bytes: "array[int]"


@dataclass(frozen=True, slots=True)
class Group:
    """Recordings that are encoded together, and the shards that their samples are shuffled into.

    Attributes:
        shards: for each shard the samples it holds, in order.
    """

    recordings: tuple[Recording, ...]
    shards: "tuple[array[int], ...]"


def ranking(seed: int, purpose: str) -> Callable[[object], bytes]:
    """A sort key that shuffles names: the same on every machine, for ever."""
    start = sha256(f"{seed}\0{purpose}\0".encode())

    def ranked(name: object) -> bytes:
        digest = start.copy()
        digest.update(str(name).encode())
        return digest.digest()

    return ranked


def assign_splits(
    groups: Sequence[Hashable], *, shares: Mapping[str, float], seed: int
) -> list[str]:
    """A split for each sample, such that no group is in two.

    Groups are dealt out from the largest to the smallest, each to the split that lacks most of
    its share, so that sizes come as near to the shares as the groups allow.

    Args:
        groups: one a sample.
        shares: of each split; they are scaled to sum to 1.
    """
    sizes: dict[Hashable, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    total = sum(shares.values())
    lacking = {split: share / total * len(groups) for split, share in shares.items()}
    chosen: dict[Hashable, str] = {}
    shuffled = ranking(seed, "split")
    for group in sorted(sizes, key=lambda group: (-sizes[group], shuffled(group))):
        chosen[group] = max(lacking, key=lambda split: lacking[split])
        lacking[chosen[group]] -= sizes[group]
    return [chosen[group] for group in groups]


def plan_groups(
    segments: Sequence[Segment],
    planned_bytes: "array[int]",
    *,
    seed: int | None,
    group_bytes: int,
    shard_bytes: int,
) -> list[Group]:
    """Shuffle recordings into groups, and the samples of each group into shards.

    Args:
        seed: None leaves recordings in the order of their first samples, which come together.
    """
    sources: dict[str, array[int]] = defaultdict(lambda: array("q"))
    for index, segment in enumerate(segments):
        sources[str(segment.annotation.audio or segment.annotation.midi)].append(index)
    sizes = _view(planned_bytes)
    recordings = [
        Recording(source, indices, array("q", sizes[_view(indices)].tobytes()))
        for source, indices in sources.items()
    ]
    # by the key of its first sample, which unlike its path is the same on every machine
    if seed is not None:
        keys = (segments[recording.indices[0]].annotation.key for recording in recordings)
        recordings = [recordings[place] for place in _shuffled(keys, seed, "group")]
    each = np.array([sum(recording.planned_bytes) for recording in recordings], dtype=np.int64)
    return [
        Group(group, _plan_shards(group, segments, sizes, seed=seed, shard_bytes=shard_bytes))
        for group in (tuple(recordings[cut]) for cut in _cuts(each, group_bytes))
    ]


def _plan_shards(
    group: Sequence[Recording],
    segments: Sequence[Segment],
    sizes: Integers,
    *,
    seed: int | None,
    shard_bytes: int,
) -> "tuple[array[int], ...]":
    order = np.concatenate([_view(recording.indices) for recording in group])
    if seed is not None:
        keys = (segments[index].annotation.key for index in order.tolist())
        order = order[_shuffled(keys, seed, "sample")]
    return tuple(array("q", order[cut].tobytes()) for cut in _cuts(sizes[order], shard_bytes))


def _view(numbers: "array[int]") -> Integers:
    return np.frombuffer(numbers, dtype=np.int64)


def _shuffled(keys: Iterable[str], seed: int, purpose: str) -> Integers:
    """Places in the order of ``ranking``, by the first 64 bits of it."""
    ranked = ranking(seed, purpose)
    ranks = np.fromiter((int.from_bytes(ranked(key)[:8], "big") for key in keys), dtype=np.uint64)
    return np.argsort(ranks, kind="stable")


def _cuts(sizes: Integers, target: int) -> list[slice]:
    """Consecutive parts of about ``target`` bytes each, all of nearly the same size."""
    total = int(sizes.sum())
    count = max(1, round(total / target))
    middle = np.cumsum(sizes) - sizes + sizes / 2
    part = np.minimum((middle / (total / count)).astype(np.int64), count - 1)
    bounds = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(sizes)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
