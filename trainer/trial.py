"""One training step on the real device, to see whether it fits: time, and memory at its peak."""

import copy
import gc
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from trainer.devices import precision
from trainer.memory import OutOfMemoryError, is_out_of_memory
from trainer.models import waveform

# Of a run's options, those that decide what a step takes.
_OPTIONS = ("accelerator", "precision", "gradient_clip_val", "gradient_clip_algorithm")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step took: seconds, and bytes of memory at its peak."""

    seconds: float
    peak_bytes: int


def run_step(
    model: LightningModule, batch: Mapping[str, Any], options: Mapping[str, Any], *, ahead: int
) -> Step:
    """Train a copy of a model on a batch, as Lightning does it: gradients, optimiser and all.

    Args:
        batch: on the CPU, as the pipeline gives it.
        options: of Lightning's Trainer, by ``options_of``.
        ahead: batches that the loader would have on a GPU meanwhile.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    try:
        return _train(model, batch, options, ahead)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = str(error) or type(error).__name__
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    # Not from the error itself: its traceback holds the step's tensors, and a smaller step that
    # is tried next would have only what they leave.
    raise OutOfMemoryError(failed)


def options_of(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how much a step takes, out of a config's ``trainer`` section."""
    options = {name: trainer[name] for name in _OPTIONS}
    accelerator = options["accelerator"]
    return options | {"precision": precision(options["precision"], accelerator=accelerator)}


def resized(batch: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """A batch with another number of rows, its own again and again."""
    chosen = [row % len(batch["__key__"]) for row in range(rows)]
    return {
        name: value[chosen] if isinstance(value, torch.Tensor) else [value[row] for row in chosen]
        for name, value in batch.items()
    }


def _train(
    model: LightningModule, batch: Mapping[str, Any], options: Mapping[str, Any], ahead: int
) -> Step:
    """The step itself; all that it makes is let go with this frame."""
    clock = _Clock()
    with _quiet():
        trainer = Trainer(
            **options,
            devices=1,
            fast_dev_run=2,  # the first one also loads kernels, and makes the optimiser's state
            callbacks=[clock],
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        meter = _Meter(trainer.strategy.root_device)
        fed: Any = _fed(batch, trainer.strategy.root_device, ahead=ahead)
        batches: Any = DataLoader(fed, batch_size=None)
        trainer.fit(copy.deepcopy(model), train_dataloaders=batches)
        return Step(clock.seconds, meter.peak_bytes())


def _fed(batch: Mapping[str, Any], device: torch.device, *, ahead: int) -> list[Mapping[str, Any]]:
    """A batch for each of two steps; on a GPU, as often as the loader would have one there."""
    if device.type != "cuda":
        return [batch, batch]
    return [
        {
            name: (waveform(value) if name == "audio" else value).to(device, copy=True)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in batch.items()
        }
        for _ in range(max(2, 1 + ahead))
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on a run of two steps."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


class _Clock(Callback):
    """Seconds of the last step, backward pass and optimiser included."""

    seconds = 0.0

    def on_train_batch_start(self, *args: object) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._began


class _Meter:
    """Peak memory from here on: of the GPU, or of this process beyond what it has now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        if _CLEAR.exists():
            _CLEAR.write_text("5", encoding="utf-8")  # the kernel's way to begin the peak anew
        self._before = _resident("VmRSS")

    def peak_bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self._device))
        return max(0, _resident("VmHWM") - self._before)


def _resident(name: str) -> int:
    """Bytes by the kernel's name; 0 where it does not tell."""
    if not _STATUS.exists():
        return 0
    lines = (line.partition(":") for line in _STATUS.read_text(encoding="utf-8").splitlines())
    return next((int(rest.split()[0]) * 1024 for key, _, rest in lines if key == name), 0)
