"""Fits a checkpoint within an epoch to another batch size, or another number of ranks."""

from typing import Any

from lightning.pytorch import Trainer

from trainer.data import PianoData


def adapt(checkpoint: dict[str, Any], trainer: Trainer, *, before: dict[str, int]) -> None:
    """Count the rest of the epoch, and of the schedule, in this run's batches.

    Lightning counts batches, the pipeline samples. Nothing changes where a batch over all ranks
    is as large as it was.

    Args:
        checkpoint: as it was loaded, and before Lightning takes its loops from it.
        before: ``batch_samples`` and ``step_samples`` over all ranks, of the run that saved it.

    Raises:
        ValueError: if the rest of the epoch does not fill one batch.
    """
    now = sizes(trainer)
    if now["batch_samples"] != before["batch_samples"]:
        _count_batches_anew(checkpoint["loops"]["fit_loop"], _data(trainer), trainer)
    if now["step_samples"] != before["step_samples"]:
        share = before["step_samples"] / now["step_samples"]
        for schedule in checkpoint["lr_schedulers"]:
            schedule["last_epoch"] = round(schedule["last_epoch"] * share)


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
