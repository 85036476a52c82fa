"""Can the models be built, and does a training step fit on the device?"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch

from loader.finding import Finding, State
from loader.machine import free_memory
from trainer.augmentation import Augmentation
from trainer.data import batches_ahead
from trainer.devices import uses_cuda
from trainer.fitting import foreseen, most_rows, room
from trainer.memory import OutOfMemoryError, largest, shares
from trainer.models import Batch, Mode, Statistics
from trainer.module import Rater
from trainer.plan import Plan
from trainer.preflight_loading import Loaded, batch_bytes
from trainer.trial import Step, options_of, resized, run_step

MODES: tuple[Mode, ...] = get_args(Mode)


def build(plan: Plan, mode: Mode, statistics: Statistics) -> Rater:
    """The model of a mode, as ``fit`` would build it.

    Raises:
        ValueError, ImportError, OSError: it cannot be built; the message says why.
    """
    rate, augment = plan.data["sample_rate"], plan.model["augment"]
    if augment is not None:
        augment = Augmentation(**{key: _plain(value) for key, value in augment.items()})
    options = {**plan.model, "mode": mode, "sample_rate": rate, "statistics": statistics}
    return Rater(**options | {"augment": augment})


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


def try_step(plan: Plan, statistics: Statistics, batch: Batch) -> Step:
    """One training step on the device and in the precision of the config.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    model, ahead = build(plan, plan.mode, statistics), batches_ahead(plan.data)
    return run_step(model, batch, options_of(plan.trainer), ahead=ahead)


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

    def try_rows(number: int) -> Step:
        return try_step(plan, statistics, resized(batch, number))

    if not on_cuda(plan):
        free = free_memory() if free_bytes is None else free_bytes
        peaks = {number: try_rows(number).peak_bytes for number in (1, 2)}
        fitting = largest_foreseen(peaks, plan, free_bytes=room(free))
        if free and fitting < rows:
            yield too_large(plan, fitting, f"of {free / 1e9:.1f} GB free memory")
            return
    try:
        step = try_rows(rows)
    except OutOfMemoryError as error:
        failed = str(error).splitlines()[0]
    else:
        failed = ""
    if failed:
        yield too_large(plan, most_rows(try_rows, most=rows - 1), failed)
        return
    yield Finding("ok", "training step", _told(plan, step, rows))
    if loaded is not None:
        yield judge_epoch(loaded.batch_s, step.seconds, loaded.steps)


def largest_foreseen(peaks: Mapping[int, int], plan: Plan, *, free_bytes: int) -> int:
    """Rows of the largest batch up to the plan's that will fit, by the peaks of smaller ones."""
    least = batch_bytes(plan, 1)
    return largest(
        lambda rows: foreseen(peaks, rows, least=least) <= free_bytes, most=plan.batch_size
    )


def too_large(plan: Plan, fitting: int, why: str) -> Finding:
    """A batch that does not fit, and what to change."""
    rows, accumulated = plan.batch_size, plan.trainer["accumulate_grad_batches"]
    text = f"a batch of {rows} does not fit ({why}); the largest that does is {fitting}"
    if not fitting:
        remedy = "a smaller model.dim or model.layers, or a shorter data.clip_seconds"
        return Finding("fail", "training step", text, remedy)
    part, parts = shares(rows, fitting=fitting)
    return Finding(
        "fail",
        "training step",
        text,
        f"--data.batch_size {part} --trainer.accumulate_grad_batches {parts * accumulated}"
        f"  # the same {rows * accumulated} a step; or --model.gradient_checkpointing true",
    )


def judge_epoch(loaded_s: float, step_s: float, steps: int) -> Finding:
    """How long an epoch takes, and what limits it: data are loaded while a step is computed."""
    seconds = steps * max(loaded_s, step_s)
    pace = "loading sets" if loaded_s > step_s else "the model sets"
    return Finding("ok", "epoch", f"about {_duration(seconds)} of training; {pace} the pace")


def on_cuda(plan: Plan) -> bool:
    """Whether the config's device is a GPU of CUDA, here."""
    return uses_cuda(plan.trainer["accelerator"])


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


def _plain(value: Any) -> Any:
    """A value as it was before it was a config's."""
    return tuple(value) if isinstance(value, list) else value
