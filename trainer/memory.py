"""When memory runs out: how it is recognised, what helps, and the largest batch that fits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

# What a plain RuntimeError says: of PyTorch's allocators on a CPU and on MPS, and of what takes
# memory of its own on a GPU (CUDNN_STATUS_ALLOC_FAILED, CUFFT_ALLOC_FAILED and the like).
_WORDS = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "alloc_failed",
)


class OutOfMemoryError(Exception):
    """A step did not fit; the message says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def remedies(error: BaseException, config: Mapping[str, Any], *, checkpoint: Path | None) -> str:
    """What to do after an error that says so.

    Args:
        config: as for ``advice``.
        checkpoint: that the run can go on from, if there is one.
    """
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    lines = "\n  ".join(advice(config))
    text = f"out of memory: {first}\nWhat makes a step smaller:\n  {lines}"
    if checkpoint is not None:
        text += f"\nWith a changed config the run goes on with --ckpt_path {checkpoint}"
    return text


def advice(config: Mapping[str, Any]) -> list[str]:
    """What makes a step smaller, the mildest first; each an option and what it does.

    Args:
        config: of the run, with ``data``, ``model`` and ``trainer``.
    """
    data, model, trainer = config["data"], config["model"], config["trainer"]
    lines = []
    if (size := data["batch_size"]) > 1:
        part, parts = shares(size, fitting=size // 2)
        lines.append(
            f"--data.batch_size {part} "
            f"--trainer.accumulate_grad_batches {parts * trainer['accumulate_grad_batches']}"
            f"    {part} at a time, the same step"
        )
    for key, value in model.items():
        if "checkpointing" in key and value is False:
            lines.append(f"--model.{key} true    computes activations twice, keeps few of them")
    if str(trainer["precision"]) in ("32", "32-true", "None"):
        lines.append("--trainer.precision auto    16 bits, where the device has them")
    if (seconds := data["clip_seconds"]) is None:
        lines.append("--data.clip_seconds 10    recordings are taken whole: the longest one counts")
    else:
        lines.append(f"--data.clip_seconds {seconds / 2:g}    a shorter window")
    if data["batch_size"] > 1:
        lines.append("--auto_batch_size    finds the largest batch that fits")
    return lines


def largest(fits: Callable[[int], bool], *, most: int) -> int:
    """The largest size that fits: by doubling, then by halving what lies between.

    Args:
        fits: tries a size; one that fits is taken to mean that smaller ones do.
        most: not tried beyond.

    Returns:
        0 if not even 1 fits.
    """
    good, bad = 0, most + 1
    size = 1
    while size < bad:
        if fits(size):
            good = size
            size = min(2 * size, most) if size < most else bad
        else:
            bad = size
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def shares(batch: int, *, fitting: int) -> tuple[int, int]:
    """Batch size and accumulation that together make a batch, the largest part that fits.

    Args:
        batch: samples of a step.
        fitting: the most that fit at once, from 1.
    """
    part = max(n for n in range(1, min(batch, fitting) + 1) if batch % n == 0)
    return part, batch // part
