"""What training may do to a batch: the settings, and what they mean for one batch. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
Rows = NDArray[np.int64]
# In the order in which they are applied: what the player does, the room, then the recording.
TRANSFORMS = ("stretch", "pitch", "velocity", "reverb", "filter", "noise", "gain", "polarity")
_OF_BOTH = ("stretch", "pitch")  # audio and notes alike
_OF_NOTES = ("velocity",)
_KEY = "model.augment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Probabilities a row, and ranges to draw from evenly. A probability of 0 switches off.

    Attributes:
        max_transforms: of one row at most, the masks and mixup not counted.
        stretch_p, stretch_rate: faster (above 1) or slower at the same pitch.
        pitch_p, pitch_semitones: up or down by whole semitones, up to so many.
        velocity_p, velocity_steps: all notes harder or softer, up to so many steps. Only where
            there is no audio, which would not follow.
        reverb_p, reverb_s, reverb_db: a room that takes so long to fall by 60 dB, and how loud it
            is beside the direct sound.
        filter_p: one of these four. low_pass_hz, high_pass_hz: second order, from there. band_hz:
            what passes, at its centre, two octaves wide. peak_hz, peak_db: an octave raised or
            lowered.
        noise_p, noise_snr_db: white noise, so far below the clip.
        gain_p, gain_db: louder or softer; nothing is clipped.
        polarity_p: upside down.
        masks_p, masks, mask_time, mask_mel: so many bands of the log-mel spectrogram, of at most
            that share of its length and of its height, are flattened (Park et al.,
            "SpecAugment", 2019).
        mixup_p, mixup_alpha: a clip and its labels are mixed with another's by Beta(alpha, alpha)
            (Zhang et al., "mixup", 2018). Only in mode audio: notes cannot be mixed.
    """

    max_transforms: int = 3
    stretch_p: float = 0.2
    stretch_rate: Range = (0.9, 1.1)
    pitch_p: float = 0.2
    pitch_semitones: int = 2
    velocity_p: float = 0.3
    velocity_steps: int = 4
    reverb_p: float = 0.2
    reverb_s: Range = (0.2, 1.2)
    reverb_db: Range = (-24.0, -9.0)
    filter_p: float = 0.3
    low_pass_hz: Range = (3000.0, 10000.0)
    high_pass_hz: Range = (30.0, 200.0)
    band_hz: Range = (400.0, 2000.0)
    peak_hz: Range = (100.0, 6000.0)
    peak_db: Range = (-6.0, 6.0)
    noise_p: float = 0.3
    noise_snr_db: Range = (20.0, 50.0)
    gain_p: float = 0.5
    gain_db: Range = (-12.0, 6.0)
    polarity_p: float = 0.5
    masks_p: float = 0.5
    masks: int = 2
    mask_time: float = 0.1
    mask_mel: float = 0.15
    mixup_p: float = 0.0
    mixup_alpha: float = 0.4

    def __post_init__(self) -> None:
        """Raise ValueError, with the key's path, for what no number in that place can mean."""
        for key in self.__slots__:
            value = getattr(self, key)
            if key.endswith("_p") or key in ("mask_time", "mask_mel"):
                _require(0.0 <= value <= 1.0, key, "in [0, 1]", value)
            elif isinstance(value, int):
                _require(value >= 0, key, "at least 0", value)
            elif isinstance(value, tuple):
                _require(value[0] <= value[1], key, "a range, the smaller end first", value)
        for key in (
            "stretch_rate",
            "reverb_s",
            "low_pass_hz",
            "high_pass_hz",
            "band_hz",
            "peak_hz",
        ):
            _require(getattr(self, key)[0] > 0, key, "above 0", getattr(self, key))
        _require(self.mixup_alpha > 0, "mixup_alpha", "above 0", self.mixup_alpha)


def choose(
    settings: Augmentation, *, rows: int, audio: bool, notes: bool, rng: np.random.Generator
) -> dict[str, Rows]:
    """Which transforms of ``TRANSFORMS`` each row is given.

    Args:
        settings: probabilities, and how many at most.
        rows: of the batch.
        audio, notes: what the batch has.
        rng: of this batch.

    Returns:
        For each transform that fits the batch, its rows, ascending.
    """
    known = [name for name in TRANSFORMS if _fits(name, audio=audio, notes=notes)]
    chance = np.array([getattr(settings, f"{name}_p") for name in known])
    drawn = rng.random((rows, len(known))) < chance
    # Where too many are drawn, those stay that come first in an order of the row's own.
    order = np.argsort(rng.random((rows, len(known))), axis=1)
    rank = np.take_along_axis(np.cumsum(np.take_along_axis(drawn, order, axis=1), axis=1),
                              np.argsort(order, axis=1), axis=1)  # fmt: skip
    kept = drawn & (rank <= settings.max_transforms)
    return {name: np.flatnonzero(kept[:, n]) for n, name in enumerate(known)}


def _fits(name: str, *, audio: bool, notes: bool) -> bool:
    if name in _OF_BOTH:
        return True
    return notes and not audio if name in _OF_NOTES else audio


def _require(holds: bool, key: str, allowed: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{_KEY}.{key} must be {allowed}, got {value}")
