"""Checkpoints on disk: written whole or not at all, told from damaged ones, and found again."""

import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from trainer.disk import attempt

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class WholeCheckpoints(TorchCheckpointIO):
    """How Lightning writes checkpoints here: by ``write``. A full disk costs one, not the run.

    Attributes:
        failed: whether the last one could not be written.
    """

    failed = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write one; where that fails, say so and go on: the ones before are still there."""
        with attempt(Path(path)) as attempted:
            write(Path(path), checkpoint)
        self.failed = attempted.failed


def write(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint by rename; a last one leaves the one before it as ``previous.ckpt``.

    Raises:
        OSError: if it cannot be written; what was there is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if path.name == LAST and path.exists():
            os.replace(path, path.with_name(PREVIOUS))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is all there: a zip whose parts have the checksums it names."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile):
        return False


def newest(folder: Path) -> Path | None:
    """The checkpoint that a run goes on from: the last one, or the one before if it is damaged."""
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        if is_whole(path):
            return path
        log.warning("%s is damaged or cut short: the checkpoint before it is used", path)
    return None


def step_of(path: Path) -> int:
    """Optimiser steps before a checkpoint; little of the file is read.

    Raises:
        ValueError: if it holds weights alone, which a run cannot go on from.
    """
    found = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    if "run" not in found:
        raise ValueError(
            f"{path} holds weights alone, for validate, test and predict: a fit goes on from "
            f"{LAST}, and by itself"
        )
    return int(found["global_step"])


def _sync_folder(folder: Path) -> None:
    """Have the renames survive a loss of power, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
