"""Which sample goes into which split, group and shard. Pure: decided before anything is encoded."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from packer.probe import Segment

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Recording:
    """Segments of one source file, which one worker reads together.

    Attributes:
        indices: which samples of the dataset they are.
        planned_bytes: what they are expected to take in a shard, by sample.
    """

    source: str
    indices: tuple[int, ...]
    planned_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Recordings that are encoded together, and the shards that their samples are shuffled into.

    Attributes:
        shards: for each shard the samples it holds, in order.
    """

    recordings: tuple[Recording, ...]
    shards: tuple[tuple[int, ...], ...]


def rank(seed: int, purpose: str, name: object) -> bytes:
    """Sort key that shuffles: the same on every machine, for ever."""
    return ranking(seed, purpose)(name)


def ranking(seed: int, purpose: str) -> Callable[[object], bytes]:
    """``rank`` of one seed and purpose, for many names."""
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
    planned_bytes: Sequence[int],
    *,
    seed: int | None,
    group_bytes: int,
    shard_bytes: int,
) -> list[Group]:
    """Shuffle recordings into groups, and the samples of each group into shards.

    Args:
        seed: None leaves recordings in the order of their first samples, which come together.
    """
    sources: dict[str, list[int]] = {}
    for index, segment in enumerate(segments):
        source = segment.annotation.audio or segment.annotation.midi
        sources.setdefault(str(source), []).append(index)
    recordings = [
        Recording(source, tuple(indices), tuple(planned_bytes[i] for i in indices))
        for source, indices in sources.items()
    ]
    # by the key of its first sample, which unlike its path is the same on every machine
    if seed is not None:
        shuffled = ranking(seed, "group")
        recordings.sort(key=lambda r: shuffled(segments[r.indices[0]].annotation.key))
    cut = _cut(recordings, [sum(r.planned_bytes) for r in recordings], group_bytes)
    return [
        Group(tuple(group), _plan_shards(group, segments, seed=seed, shard_bytes=shard_bytes))
        for group in cut
    ]


def _plan_shards(
    group: Sequence[Recording], segments: Sequence[Segment], *, seed: int | None, shard_bytes: int
) -> tuple[tuple[int, ...], ...]:
    planned = {i: size for r in group for i, size in zip(r.indices, r.planned_bytes, strict=True)}
    order = list(planned)
    if seed is not None:
        shuffled = ranking(seed, "sample")
        order.sort(key=lambda i: shuffled(segments[i].annotation.key))
    shards = _cut(order, [planned[i] for i in order], shard_bytes)
    return tuple(tuple(shard) for shard in shards)


def _cut(items: Sequence[Item], sizes: Sequence[int], target: int) -> list[list[Item]]:
    """Consecutive parts of about ``target`` bytes each, all of nearly the same size."""
    count = max(1, round(sum(sizes) / target))
    parts: list[list[Item]] = [[] for _ in range(count)]
    done, each = 0, sum(sizes) / count
    for item, size in zip(items, sizes, strict=True):
        middle = done + size / 2
        parts[min(int(middle / each), count - 1)].append(item)
        done += size
    return [part for part in parts if part]
