"""Fits a checkpoint to another batch size, number of ranks, or folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import LambdaLR

from trainer.data import PianoData


def adapt(checkpoint: dict[str, Any], trainer: Trainer, *, before: dict[str, int]) -> None:
    """Count the rest of the epoch, and of the schedule, in this run's batches.

    Lightning counts batches, the pipeline samples. Nothing changes where a batch over all ranks
    is as large as it was.

    Args:
        checkpoint: as it was loaded, and before Lightning takes its loops from it.
        before: ``batch_samples`` and ``step_samples`` over all ranks, of the run that saved it.

    Raises:
        ValueError: if the rest of the epoch does not fill one batch, or the checkpoint is of a
            version whose optimiser had other parts.
    """
    if "wide_learning_rate" not in checkpoint["hyper_parameters"]:
        raise ValueError(
            "the checkpoint is of an earlier version, whose optimiser knew no rate of the wide "
            "path: validate, test and predict take it, a fit does not; train anew (--fresh)"
        )
    now = sizes(trainer)
    if now["batch_samples"] != before["batch_samples"]:
        _count_batches_anew(checkpoint["loops"]["fit_loop"], _data(trainer), trainer)
    if now["step_samples"] != before["step_samples"]:
        share = before["step_samples"] / now["step_samples"]
        for schedule in checkpoint["lr_schedulers"]:
            schedule["last_epoch"] = round(schedule["last_epoch"] * share)


def move(callbacks: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """Let Lightning's callbacks find the best checkpoint where it lies now.

    In another folder than before they would forget how good it was, and put a worse one in its
    place. Where it is not there, that is right.

    Args:
        callbacks: their states, as loaded.
        folder: of the checkpoints.
    """
    real = Path(os.path.realpath(folder))

    def here(path: str) -> str:
        return str(real / Path(path).name) if path else path

    for state in callbacks.values():
        if "best_model_path" in state and Path(here(state["best_model_path"])).is_file():
            paths = ("best_model_path", "kth_best_model_path", "last_model_path")
            state |= {name: here(state[name]) for name in paths}
            state["best_k_models"] = {here(p): score for p, score in state["best_k_models"].items()}
            state["dirpath"] = str(real)


def be_patient(callbacks: Mapping[str, dict[str, Any]], *, patience: int) -> bool:
    """Let early stopping wait for so many epochs; whether a run that it ended has to go on.

    Args:
        callbacks: their states, as loaded.
    """
    goes_on = False
    for state in callbacks.values():
        if "patience" in state:
            goes_on |= state["patience"] <= state["wait_count"] < patience
            state["patience"] = patience
    return goes_on


def tune(trainer: Trainer) -> None:
    """Give a restored optimiser the rates, decay and schedule of this run's config.

    The same as before where those are; otherwise the config counts, not the checkpoint.
    """
    (optimizer,), (config,) = trainer.optimizers, trainer.lr_scheduler_configs
    schedule = config.scheduler
    assert isinstance(schedule, LambdaLR)
    made = trainer.lightning_module.configure_optimizers()
    assert isinstance(made, dict)
    asked = made["optimizer"].param_groups
    schedule.base_lrs = [group["initial_lr"] for group in asked]
    for group, new, factor in zip(optimizer.param_groups, asked, schedule.lr_lambdas, strict=True):
        group |= {name: new[name] for name in ("initial_lr", "weight_decay")}
        group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)


def sizes(trainer: Trainer) -> dict[str, int]:
    """Samples over all ranks of a batch, and of an optimiser step."""
    batch_samples = _data(trainer).batch_size * trainer.world_size
    return {
        "batch_samples": batch_samples,
        "step_samples": batch_samples * trainer.accumulate_grad_batches,
    }


def _count_batches_anew(loop: dict[str, Any], data: PianoData, trainer: Trainer) -> None:
    current = loop["epoch_loop.batch_progress"]["current"]
    if not loop["epoch_loop.batch_progress"]["current"]["ready"] or data.position == 0:
        return  # between two epochs
    if not data.batches_left:
        raise ValueError(
            f"data.batch_size: what is left of the epoch is less than {sizes(trainer)} samples: "
            "go on with a smaller batch size"
        )
    done = data.batches - data.batches_left
    # As Lightning saves it behind a batch: completed comes after the callbacks.
    current |= {"ready": done, "started": done, "processed": done, "completed": done - 1}


def _data(trainer: Trainer) -> PianoData:
    data: Any = getattr(trainer, "datamodule", None)
    assert isinstance(data, PianoData)
    return data
