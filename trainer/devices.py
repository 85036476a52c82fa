"""What a run computes on: the precision that suits a device, and processes that are there."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

# Not all of a model in 16 bits: spectrograms, and the scale of the labels, need their digits.
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Strategy = Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
_AMPERE = (8, 0)  # the first with bfloat16 in its tensor cores; others only pretend


def uses_cuda(accelerator: str) -> bool:
    """Whether Lightning's ``accelerator`` is CUDA on this machine."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def placed(values: NDArray[Any], device: torch.device) -> Tensor:
    """Values of this machine's memory on a device; a GPU is not waited for, and goes on computing.

    A copy from memory that is not pinned waits until the GPU has done all that it was given.
    """
    held = torch.from_numpy(values)
    if device.type != "cuda":
        return held.to(device)
    return held.pin_memory().to(device, non_blocking=True)


def precision(asked: str, *, accelerator: str) -> str:
    """What "auto" means on this machine: bfloat16, float16 with a scaled loss, or float32."""
    if asked != "auto":
        return asked
    if not uses_cuda(accelerator):
        return "32-true"
    return "bf16-mixed" if torch.cuda.get_device_capability() >= _AMPERE else "16-mixed"


def several(trainer: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a config, or who started this process, wants more than one device."""
    if int(environ.get("WORLD_SIZE", "1")) > 1:
        return True
    asked = trainer["devices"]
    if asked in ("auto", -1, "-1"):
        return uses_cuda(trainer["accelerator"]) and torch.cuda.device_count() > 1
    if isinstance(asked, str) and "," in asked:
        asked = [number for number in asked.split(",") if number.strip()]
    return (len(asked) if isinstance(asked, list) else int(asked)) > 1


def machines(trainer: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> int:
    """How many machines train together, as the config, torchrun or srun says."""
    if local := environ.get("LOCAL_WORLD_SIZE"):
        return int(environ.get("WORLD_SIZE", local)) // int(local)
    return max(int(trainer["num_nodes"]), int(environ.get("SLURM_NNODES", "1")))


def processes(environ: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Options of Lightning's Trainer that torchrun has decided already, by starting processes."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return {}
    local = int(environ["LOCAL_WORLD_SIZE"])
    return {"devices": local, "num_nodes": int(environ["WORLD_SIZE"]) // local}
