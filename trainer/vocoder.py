"""Other tempo, other pitch: of waveforms by a phase vocoder, and of the notes that go with them."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from loader.backends import import_torchaudio
from loader.tokens import COLUMNS, MAX_DURATION
from shards.notes import HIGHEST_PITCH, LOWEST_PITCH
from trainer.attention import real_positions

_WINDOW_S = 0.085  # near 2,048 samples at 24 kHz: long enough for a piano's low notes
_PITCH, _DURATION, _VELOCITY = (COLUMNS.index(c) for c in ("pitch", "duration", "velocity"))
_KEYS = HIGHEST_PITCH - LOWEST_PITCH + 1


def stretched(audio: Tensor, *, rate: float, sample_rate: int) -> Tensor:
    """(R, T) waveforms to (R, round(T / rate)): faster above 1, slower below, at their pitch."""
    window = 2 ** round(math.log2(_WINDOW_S * sample_rate))
    hop = window // 4
    hann = torch.hann_window(window, device=audio.device)
    spectrum = torch.stft(audio, window, hop, window=hann, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, math.pi * hop, window // 2 + 1, device=audio.device)[:, None]
    other = import_torchaudio().functional.phase_vocoder(spectrum, rate, advance)
    return torch.istft(other, window, hop, window=hann, length=round(audio.shape[1] / rate))


def shifted(audio: Tensor, *, semitones: int, sample_rate: int) -> Tensor:
    """(R, T) waveforms up by so many semitones, or down, as long as before."""
    # A ratio of small numbers, which resampling wants, within 1 cent of the semitones.
    ratio = Fraction(2 ** (semitones / 12)).limit_denominator(64)
    longer = stretched(audio, rate=1 / float(ratio), sample_rate=sample_rate)
    resample = import_torchaudio().functional.resample
    back: Tensor = resample(longer, ratio.numerator, ratio.denominator)
    samples = audio.shape[1]
    return torch.nn.functional.pad(back, (0, max(0, samples - back.shape[1])))[:, :samples]


def hastened(midi: Tensor, notes: Tensor, *, rate: float) -> Tensor:
    """(R, N, 8) tokens of which ``notes`` (R,) are real, played at another tempo.

    Bar, beat and position count beats and stay; durations count hundredths of a second. The
    longest token says "this or longer", which it also does afterwards.
    """
    old = midi[:, :, _DURATION]
    new = (old / rate).round().long().clamp(1, MAX_DURATION)
    new = torch.where(old >= MAX_DURATION, old, new)
    return _replaced(midi, _DURATION, new, real_positions(midi.shape[1], notes))


def transposed(midi: Tensor, notes: Tensor, *, semitones: int) -> tuple[Tensor, Tensor]:
    """Tokens as in ``hastened`` up by semitones, and (R,) bool which rows stay on the keyboard.

    The others are as they were: a note left out would still be heard.
    """
    real = real_positions(midi.shape[1], notes)
    pitch = midi[:, :, _PITCH] + semitones
    fits = ((pitch >= 0) & (pitch < _KEYS) | ~real).all(dim=1)
    return _replaced(midi, _PITCH, pitch, real & fits[:, None]), fits


def struck(midi: Tensor, notes: Tensor, *, steps: Tensor) -> Tensor:
    """Tokens as in ``hastened`` harder by so many steps (R,) of velocity, or softer; 1 to 127."""
    velocity = (midi[:, :, _VELOCITY] + steps[:, None]).clamp(1, 127)
    return _replaced(midi, _VELOCITY, velocity, real_positions(midi.shape[1], notes))


def _replaced(midi: Tensor, column: int, values: Tensor, where: Tensor) -> Tensor:
    changed = midi.clone()
    changed[:, :, column] = torch.where(where, values, midi[:, :, column])
    return changed
