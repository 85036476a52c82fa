"""Augmentation of training batches, on the device that they are on."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loader.backends import import_torchaudio
from trainer import effects, vocoder
from trainer.attention import real_positions
from trainer.augmentation import TRANSFORMS, Augmentation, Range, Rows, choose
from trainer.devices import placed
from trainer.models import Batch, Mode, waveform

log = logging.getLogger(__name__)

_FILTERS = ("low_pass", "high_pass", "band", "peak")


class Augmenter:
    """Changes a batch as the settings say.

    It holds no state: what becomes of a batch depends on the seed, on the numbers of epoch and
    step, and on the rank, so that a resumed run goes on as if it had never stopped. Choices are
    drawn on the CPU, noise on the batch's device. Nothing waits for the device but a change of
    tempo or pitch, whose inverse transform looks whether its windows overlap.
    """

    def __init__(self, settings: Augmentation, *, mode: Mode, sample_rate: int, seed: int) -> None:
        if settings.mixup_p and mode != "audio":
            log.warning("model.augment.mixup_p: notes cannot be mixed, so mode %s has none", mode)
        self.settings = settings
        self.mode = mode
        self.sample_rate = sample_rate
        self.seed = seed

    @torch.no_grad()
    def __call__(
        self, batch: Batch, *, epoch: int, step: int, rank: int
    ) -> tuple[Batch, Callable[[Tensor], Tensor]]:
        """Return the batch, changed, and what is to become of its spectrogram.

        Audio leaves as float32, and longer than it came if a row was slowed down.
        """
        rng = np.random.default_rng([self.seed, epoch, step, rank])
        changed = dict(batch)
        audio, notes = self.mode != "midi", self.mode != "audio"
        if audio:
            changed["audio"] = waveform(batch["audio"])
        rows = len(batch["weight"])
        chosen = choose(self.settings, rows=rows, audio=audio, notes=notes, rng=rng)
        # Under autocast, the convolutions of a resampling would lose half of their digits.
        with torch.autocast(batch["weight"].device.type, enabled=False):
            for name in TRANSFORMS:
                if len(chosen.get(name, ())):
                    getattr(self, f"_{name}")(changed, chosen[name], rng)
            if audio:
                self._silence_padding(changed)
            if self.mode == "audio":
                self._mixup(changed, rng)
        return changed, partial(self._masks, rows=self._masked(rows, rng), seed=_seed(rng))

    def _stretch(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        """One rate for all rows chosen: they share the vocoder's frames."""
        rate = float(rng.uniform(*self.settings.stretch_rate))
        if self.mode != "midi":
            batch["audio"], batch["audio_frames"] = _stretched(
                batch["audio"], batch["audio_frames"], rows, rate, self.sample_rate
            )
        if self.mode != "audio":
            batch["midi"] = _with_rows(
                batch["midi"], rows, partial(vocoder.hastened, rate=rate), batch["midi_notes"]
            )

    def _pitch(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        most = self.settings.pitch_semitones
        semitones = int(rng.integers(1, most + 1) * rng.choice((-1, 1))) if most else 0
        fits = None
        if self.mode != "audio":
            at = placed(rows, batch["midi"].device)
            tokens, fits = vocoder.transposed(
                batch["midi"][at], batch["midi_notes"][at], semitones=semitones
            )
            batch["midi"] = batch["midi"].index_copy(0, at, tokens)
        if self.mode != "midi":
            shift = partial(vocoder.shifted, semitones=semitones, sample_rate=self.sample_rate)
            batch["audio"] = _with_rows(batch["audio"], rows, partial(_where, shift, fits))

    def _velocity(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        most = self.settings.velocity_steps
        steps = placed(rng.integers(-most, most + 1, len(rows)), batch["midi"].device)
        batch["midi"] = _with_rows(
            batch["midi"], rows, partial(vocoder.struck, steps=steps), batch["midi_notes"]
        )

    def _reverb(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        settings, audio = self.settings, batch["audio"]
        effect = partial(
            effects.in_a_room,
            seconds=_drawn(settings.reverb_s, rows, rng, audio.device),
            db=_drawn(settings.reverb_db, rows, rng, audio.device),
            sample_rate=self.sample_rate,
            generator=_generator(audio.device, rng),
        )
        batch["audio"] = _with_rows(audio, rows, effect)

    def _filter(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        """A kind and a frequency, even on a logarithmic scale, for every row."""
        coefficients = []
        for kind in rng.choice(_FILTERS, len(rows)):
            low, high = np.log(getattr(self.settings, f"{kind}_hz"))
            hz, db = float(np.exp(rng.uniform(low, high))), rng.uniform(*self.settings.peak_db)
            made = effects.biquads(str(kind), hz=hz, db=float(db), sample_rate=self.sample_rate)
            coefficients.append(made)
        values = np.asarray(coefficients, np.float32)
        b, a = placed(values, batch["audio"].device).unbind(dim=1)
        effect = partial(effects.filtered, numerator=b, denominator=a, sample_rate=self.sample_rate)
        batch["audio"] = _with_rows(batch["audio"], rows, effect)

    def _noise(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        audio, at = batch["audio"], placed(rows, batch["audio"].device)
        effect = partial(
            effects.noisy,
            frames=batch["audio_frames"][at],
            snr_db=_drawn(self.settings.noise_snr_db, rows, rng, audio.device),
            generator=_generator(audio.device, rng),
        )
        batch["audio"] = _with_rows(audio, rows, effect)

    def _gain(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        db = _drawn(self.settings.gain_db, rows, rng, batch["audio"].device)
        batch["audio"] = _with_rows(batch["audio"], rows, partial(effects.louder, db=db))

    def _polarity(self, batch: dict[str, Any], rows: Rows, rng: np.random.Generator) -> None:
        batch["audio"] = _with_rows(batch["audio"], rows, torch.neg)

    def _silence_padding(self, batch: dict[str, Any]) -> None:
        audio = batch["audio"]
        real = real_positions(audio.shape[1], batch["audio_frames"])
        batch["audio"] = torch.where(real, audio, 0.0)

    def _mixup(self, batch: dict[str, Any], rng: np.random.Generator) -> None:
        """With the next row, which is as random as any in a shuffled batch."""
        settings, rows = self.settings, len(batch["weight"])
        share = rng.beta(settings.mixup_alpha, settings.mixup_alpha, rows)
        share = np.where(rng.random(rows) < settings.mixup_p, np.maximum(share, 1 - share), 1.0)
        labels, other = batch["labels"], batch["labels"].roll(1, dims=0)
        # Not with what lacks a label that the row has; and padding stays padding.
        empty = batch["weight"] <= 0
        lacks = (other.isnan() & ~labels.isnan()).any(dim=1) | empty | empty.roll(1)
        own = placed(share, labels.device).to(labels.dtype)
        own = torch.where(lacks, 1.0, own)[:, None]
        mixed = own < 1
        for name, kept in (("audio", batch["audio"]), ("labels", labels)):
            batch[name] = torch.where(mixed, own * kept + (1 - own) * kept.roll(1, dims=0), kept)
        frames = batch["audio_frames"]
        longer = torch.maximum(frames, frames.roll(1))
        batch["audio_frames"] = torch.where(mixed[:, 0], longer, frames)

    def _masked(self, rows: int, rng: np.random.Generator) -> Rows:
        return np.flatnonzero(rng.random(rows) < self.settings.masks_p)

    def _masks(self, spectrogram: Tensor, *, rows: Rows, seed: int) -> Tensor:
        """(B, M, F) centred on 0, with bands of 0 in both directions in some rows."""
        if not len(rows) or not self.settings.masks:
            return spectrogram
        transforms = import_torchaudio().transforms
        bands, frames = spectrogram.shape[1:]
        masks = (
            transforms.FrequencyMasking(round(self.settings.mask_mel * bands), iid_masks=True),
            transforms.TimeMasking(round(self.settings.mask_time * frames), iid_masks=True),
        )

        def flattened(kept: Tensor) -> Tensor:
            for mask in masks * self.settings.masks:
                kept = mask(kept)
            return kept

        device = spectrogram.device
        # torchaudio draws from the global generators.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return _with_rows(spectrogram, rows, flattened)


def _stretched(
    audio: Tensor, frames: Tensor, rows: Rows, rate: float, sample_rate: int
) -> tuple[Tensor, Tensor]:
    """(B, T) and (B,): some rows at another tempo, whole, all padded to the longest."""
    at = placed(rows, audio.device)
    other = vocoder.stretched(audio[at], rate=rate, sample_rate=sample_rate)
    samples = max(audio.shape[1], other.shape[1])
    pad = torch.nn.functional.pad
    audio = pad(audio, (0, samples - audio.shape[1]))
    audio = audio.index_copy(0, at, pad(other, (0, samples - other.shape[1])))
    return audio, frames.index_copy(0, at, (frames[at] / rate).round().long().clamp(max=samples))


def _with_rows(
    values: Tensor, rows: Rows, change: Callable[..., Tensor], *others: Tensor
) -> Tensor:
    """``values`` with ``change(values[rows], *others[rows])`` in their place."""
    at = placed(rows, values.device)
    return values.index_copy(0, at, change(values[at], *(other[at] for other in others)))


def _where(change: Callable[[Tensor], Tensor], which: Tensor | None, audio: Tensor) -> Tensor:
    """The change in those rows alone; in all if None."""
    changed = change(audio)
    return changed if which is None else torch.where(which[:, None], changed, audio)


def _drawn(span: Range, rows: Rows, rng: np.random.Generator, device: torch.device) -> Tensor:
    return placed(rng.uniform(*span, len(rows)).astype(np.float32), device)


def _generator(device: torch.device, rng: np.random.Generator) -> torch.Generator:
    return torch.Generator(device).manual_seed(_seed(rng))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))
