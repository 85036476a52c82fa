"""Who takes which positions: this process among the ranks, and the positions of its steps."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from loader.order import Positions


@dataclass(frozen=True, slots=True)
class World:
    """This process among all that train together.

    Attributes:
        rank, size: global rank and number of ranks.
        local_size: ranks on each node.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must be in [0, {self.size}), got {self.rank}")
        if self.local_size < 1 or self.size % self.local_size:
            raise ValueError(
                f"{self.size} ranks do not make nodes of {self.local_size}: set LOCAL_WORLD_SIZE, "
                "or pass rank and world_size"
            )

    @property
    def nodes(self) -> int:
        return self.size // self.local_size


def find_world(
    rank: int | None,
    world_size: int | None,
    *,
    environ: Mapping[str, str] = os.environ,
    group: tuple[int, int] | None = None,
) -> World:
    """This process's place: arguments, process group, torchrun's or srun's variables, else alone.

    Args:
        group: rank and size of the torch.distributed process group, if there is one.

    Raises:
        ValueError: if only half of a place is given, or a number is out of range.
    """
    if rank is not None or world_size is not None:
        if rank is None or world_size is None:
            raise ValueError(f"rank={rank} and world_size={world_size}: give both or neither")
        return World(rank, world_size, world_size)  # streams is 1 then: one node
    if group is not None:
        return World(*group, _torchrun_local_size(environ, group[1]))
    if "WORLD_SIZE" in environ or "RANK" in environ:
        rank, size = _from(environ, "RANK", "WORLD_SIZE")
        return World(rank, size, _torchrun_local_size(environ, size))
    if "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        rank, size = _from(environ, "SLURM_PROCID", "SLURM_NTASKS")
        nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
        return World(rank, size, size // nodes if size % nodes == 0 else size)
    return World()


def process_group() -> tuple[int, int] | None:
    """Rank and size of torch.distributed's process group, where there is one."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def ranks_here(environ: Mapping[str, str] = os.environ) -> int:
    """How many ranks share this machine's cores, as torchrun or srun says."""
    told = environ.get("LOCAL_WORLD_SIZE") or environ.get("SLURM_NTASKS_PER_NODE") or "1"
    return max(1, int(told)) if told.isdigit() else 1


def _from(environ: Mapping[str, str], rank: str, size: str) -> tuple[int, int]:
    world = int(environ.get(size, "1"))
    if rank not in environ and world > 1:
        raise ValueError(f"{size}={world} but {rank} is not set: which rank is this process?")
    return int(environ.get(rank, "0")), world


def _torchrun_local_size(environ: Mapping[str, str], world: int) -> int:
    """Ranks on each node; all of them where torchrun does not say."""
    return int(environ.get("LOCAL_WORLD_SIZE", world))


def step_positions(
    start: int, total: int, *, batch_size: int, world: World, streams: int
) -> Positions:
    """Positions that this rank takes of the step that starts at global position ``start``.

    A step covers ``batch_size * world.size`` positions. Where there are as many nodes as
    streams, a node's ranks share those of its stream; otherwise each rank takes a contiguous
    part. The last step may leave a rank with fewer than ``batch_size``, or none.
    """
    stop = min(start + batch_size * world.size, total)
    if world.nodes == streams:
        node, part = divmod(world.rank, world.local_size)
        first = start + (node - start) % streams
    else:
        first, streams, part = start, 1, world.rank
    mine = np.arange(first, stop, streams, dtype=np.int64)
    return mine[part * batch_size : (part + 1) * batch_size]


def step_count(total: int, *, batch_size: int, world: World, drop_last: bool) -> int:
    """Steps, the same on every rank, over ``total`` positions."""
    step = batch_size * world.size
    return total // step if drop_last else -(-total // step)
