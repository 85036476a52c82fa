"""Can the models be built, and does a training step fit on the device?"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from loader.finding import Finding, State
from loader.machine import free_memory
from trainer.models import Batch, Mode, Statistics
from trainer.module import Rater
from trainer.plan import Plan
from trainer.preflight_loading import Loaded, batch_bytes

MODES: tuple[Mode, ...] = get_args(Mode)
_TRAINER_KEYS = ("accelerator", "precision", "gradient_clip_val", "gradient_clip_algorithm")
_ROOM = 0.9  # of what is free: other programs, and longer batches, need some
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step took: seconds, and bytes of memory at its peak."""

    seconds: float
    peak_bytes: int


class OutOfMemoryError(Exception):
    """A batch was too large for the device."""


def build(plan: Plan, mode: Mode, statistics: Statistics) -> Rater:
    """The model of a mode, as ``fit`` would build it.

    Raises:
        ValueError, ImportError, OSError: it cannot be built; the message says why.
    """
    rate = plan.data["sample_rate"]
    options = {**plan.model, "mode": mode, "sample_rate": rate, "statistics": statistics}
    return Rater(**options)


def check_models(plan: Plan, statistics: Statistics) -> Iterator[Finding]:
    """Build the models of all modes and count their parameters."""
    counts = []
    for mode in MODES:
        try:
            rater = build(plan, mode, statistics)
        except (ValueError, ImportError, OSError, RuntimeError) as error:
            state: State = "fail" if mode == plan.mode else "warn"
            yield Finding(state, f"{mode} model", str(error), remedy_for(error, plan))
        else:
            counts.append(f"{mode} {parameters(rater) / 1e6:.2f} M")
    if counts:
        yield Finding("ok", "models", f"parameters: {', '.join(counts)}")


def remedy_for(error: Exception, plan: Plan) -> str:
    """What mends a model that cannot be built."""
    text = str(error)
    if "sample_rate" in text or "Hz" in text:
        rates = [word for word in text.replace(",", " ").split() if word.isdigit()]
        others = [rate for rate in rates if rate != str(plan.data["sample_rate"])]
        return f"--data.sample_rate {others[0]}" if others else "--data.sample_rate HZ"
    if isinstance(error, ImportError):
        return "python -m loader doctor"
    return "python -m trainer fit --help  # the keys of the model section"


def parameters(rater: Rater) -> int:
    return sum(p.numel() for p in rater.parameters())


def made_up(plan: Plan, statistics: Statistics, *, rows: int) -> Batch:
    """A batch of the largest shapes that the config allows."""
    frames = round((plan.data["clip_seconds"] or 60.0) * plan.data["sample_rate"])
    notes = plan.data["max_notes"]
    batch: dict[str, Any] = {
        "labels": torch.zeros(rows, len(statistics)),
        "weight": torch.ones(rows),
        "audio_frames": torch.full((rows,), frames if plan.hears else 0),
        "midi_notes": torch.full((rows,), notes if plan.mode != "audio" else 0),
        "__key__": [str(row) for row in range(rows)],
    }
    if plan.hears:
        batch["audio"] = torch.zeros(rows, frames)
    if plan.mode != "audio":
        batch["midi"] = torch.zeros(rows, notes, 8, dtype=torch.int64)
    return batch


def resized(batch: Batch, rows: int) -> Batch:
    """A batch with another number of rows, its own again and again."""
    there = len(batch["__key__"])
    chosen = [row % there for row in range(rows)]
    return {
        name: value[chosen] if isinstance(value, torch.Tensor) else [value[row] for row in chosen]
        for name, value in batch.items()
    }


def run_step(plan: Plan, statistics: Statistics, batch: Batch) -> Step:
    """One training step, as Lightning does it, on the device and in the precision of the config.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    rater = build(plan, plan.mode, statistics)
    options = {name: plan.trainer[name] for name in _TRAINER_KEYS}
    times = 2 if on_cuda(plan) else 1  # a GPU's first step loads its kernels
    batches: Any = [batch] * times
    clock = _Clock()
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a run of one step
            trainer = Trainer(
                **options,
                devices=1,
                fast_dev_run=times,
                callbacks=[clock],
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
            )
            meter = _Meter(trainer.strategy.root_device)
            trainer.fit(rater, train_dataloaders=DataLoader(batches, batch_size=None))
            return Step(clock.seconds, meter.peak_bytes())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(str(error)) from error
    finally:
        log.setLevel(level)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )


def check_step(
    plan: Plan,
    statistics: Statistics,
    batch: Batch,
    *,
    loaded: Loaded | None = None,
    free_bytes: int | None = None,
) -> Iterator[Finding]:
    """One step of the real batch size; where it does not fit, the largest that does.

    On a CPU a batch that is too large would end the process, so its memory is told from those of
    steps of one and two rows, and it is run only if there is room.

    Args:
        loaded: what loading was like, for the time of an epoch.
        free_bytes: of memory, on a CPU; None asks the machine.
    """
    rows = plan.batch_size
    if not on_cuda(plan):
        free = free_memory() if free_bytes is None else free_bytes
        peaks = [run_step(plan, statistics, resized(batch, n)).peak_bytes for n in (1, 2)]
        least = batch_bytes(plan, 1)
        fitting = largest_by_line(*peaks, least=least, free_bytes=round(_ROOM * free))
        if free and fitting < rows:
            yield too_large(rows, fitting, f"of {free / 1e9:.1f} GB free memory")
            return
    try:
        step = run_step(plan, statistics, resized(batch, rows))
    except OutOfMemoryError as error:
        fitting = largest(lambda n: _fits(plan, statistics, resized(batch, n)), below=rows)
        yield too_large(rows, fitting, str(error).splitlines()[0])
        return
    yield Finding("ok", "training step", _told(plan, step, rows))
    if loaded is not None:
        yield judge_epoch(loaded.batch_s, step.seconds, loaded.steps)


def largest_by_line(one: int, two: int, *, least: int, free_bytes: int) -> int:
    """Rows of the largest batch that fits, by the peaks of one row and of two rows.

    Args:
        least: bytes that a row takes in any case; small peaks drown in what else is allocated.
    """
    each = max(two - one, least)
    return max(0, 1 + (free_bytes - one) // each)


def largest(fits: Callable[[int], bool], *, below: int) -> int:
    """The largest number under ``below`` that fits, where all smaller ones do; 0 if none does."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def too_large(rows: int, fitting: int, why: str) -> Finding:
    """A batch that does not fit, and what to change."""
    text = f"a batch of {rows} does not fit ({why}); the largest that does is {fitting}"
    if not fitting:
        remedy = "a smaller model.dim or model.layers, or a shorter data.clip_seconds"
        return Finding("fail", "training step", text, remedy)
    accumulate = math.ceil(rows / fitting)
    return Finding(
        "fail",
        "training step",
        text,
        f"--data.batch_size {math.ceil(rows / accumulate)} "
        f"--trainer.accumulate_grad_batches {accumulate}  # the same {rows} a step; or "
        "--model.gradient_checkpointing true",
    )


def judge_epoch(loaded_s: float, step_s: float, steps: int) -> Finding:
    """How long an epoch takes, and what limits it: data are loaded while a step is computed."""
    seconds = steps * max(loaded_s, step_s)
    pace = "loading sets" if loaded_s > step_s else "the model sets"
    return Finding("ok", "epoch", f"about {_duration(seconds)} of training; {pace} the pace")


def on_cuda(plan: Plan) -> bool:
    """Whether the config's device is a GPU of CUDA, here."""
    return plan.trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()


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
            _CLEAR.write_text("5")  # the kernel's way to begin the peak anew
        self._before = _resident("VmRSS")

    def peak_bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self._device))
        return max(0, _resident("VmHWM") - self._before)


def _resident(name: str) -> int:
    """Bytes by the kernel's name; 0 where it does not tell."""
    if not _STATUS.exists():
        return 0
    lines = (line.partition(":") for line in _STATUS.read_text().splitlines())
    return next((int(rest.split()[0]) * 1024 for key, _, rest in lines if key == name), 0)


def _fits(plan: Plan, statistics: Statistics, batch: Batch) -> bool:
    try:
        run_step(plan, statistics, batch)
    except OutOfMemoryError:
        return False
    return True


def _told(plan: Plan, step: Step, rows: int) -> str:
    where = "on the CPU"
    if on_cuda(plan):
        total = torch.cuda.get_device_properties(0).total_memory
        where = f"of the GPU's {total / 1e9:.1f}"
    return f"{rows} samples in {step.seconds:.2f} s, {step.peak_bytes / 1e9:.2f} GB {where} at peak"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
