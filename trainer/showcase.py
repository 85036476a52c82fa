"""An example in TensorBoard every so often: what is heard and read, and how it is rated."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from trainer.drawing import piano_roll, spectrogram
from trainer.models import Batch, waveform
from trainer.module import Rater
from trainer.outcomes import writer_of


class Showcase(Callback):
    """Shows one validation sample after the epochs 0, 1, 2, 4, 8, ...: logs stay small."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        epoch = trainer.current_epoch
        due = epoch & (epoch - 1) == 0 and batch_idx == 0 and not trainer.sanity_checking
        writer = writer_of(trainer) if due else None
        if writer is None:
            return
        rater = cast(Rater, pl_module)
        real = [row for row, key in enumerate(batch["__key__"]) if key]
        one = _row(batch, real[epoch.bit_length() % len(real)])
        key, step = one["__key__"][0], trainer.global_step
        rate = rater.hparams["sample_rate"]
        with torch.no_grad():
            ratings = rater(one)[0].float().cpu()
        table = comparison(rater.scores.dimensions, ratings, one["labels"][0].float().cpu())
        writer.add_text("example/ratings", f"`{key}`\n\n{table}", step)
        if "audio" in one:
            audio = _sound(one)
            writer.add_audio("example/audio", audio, step, sample_rate=rate)
            mel = _mel(rater, audio)
            if mel is not None:
                seconds = audio.shape[1] / rate
                figure = spectrogram(mel.numpy(), seconds=seconds, title=key)
                writer.add_figure("example/spectrogram", figure, step)
        if "midi" in one:
            notes = one["midi"][0, : int(one["midi_notes"][0])].cpu().numpy()
            writer.add_figure("example/piano_roll", piano_roll(notes, title=key), step)


def comparison(names: Sequence[str], ratings: torch.Tensor, labels: torch.Tensor) -> str:
    """A Markdown table of (D,) ratings and labels; NaN is a label that is missing."""
    lines = ["| dimension | rating | label |", "| --- | ---: | ---: |"]
    for name, rating, label in zip(names, ratings.tolist(), labels.tolist(), strict=True):
        told = "" if label != label else f"{label:.3g}"
        lines.append(f"| {name.replace('|', chr(92) + '|')} | {rating:.3g} | {told} |")
    return "\n".join(lines)


def _row(batch: Batch, row: int) -> Batch:
    """A batch of one row of another."""
    return {
        name: value[row : row + 1] if isinstance(value, torch.Tensor | list) else value
        for name, value in batch.items()
    }


def _sound(one: Batch) -> torch.Tensor:
    """(1, T) float32 of what is real of a batch of one."""
    audio: torch.Tensor = one["audio"][:, : int(one["audio_frames"][0])].cpu()
    return waveform(audio)


def _mel(rater: Rater, audio: torch.Tensor) -> torch.Tensor | None:
    """(bands, frames) as the model sees it; None where it hears the waveform itself."""
    features = getattr(rater.model.audio, "features", None)
    if features is None or not audio.shape[1]:
        return None
    with torch.no_grad():
        mel: torch.Tensor = features(audio.to(rater.device))[0].float().cpu()
    return mel
