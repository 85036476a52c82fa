"""A clip in a few figures: statistics of its notes and of its spectrogram. Pure.

Means and deviations over time (statistics pooling, as in Snyder et al., "X-Vectors", 2018) of what
a listener would name first: how loud, how fast, how even, how detached.
"""

import torch
from torch import Tensor
from torch.nn import functional

from loader.tokens import DURATIONS_PER_S, MAX_DURATION, POSITIONS_PER_BEAT
from trainer.attention import real_positions

Scale = tuple[float, float]  # mean and deviation over clips

# What is pooled of notes, with mean and deviation of its mean and of its deviation over clips of
# piano music. They need not be exact: a linear layer follows, which learns what is left.
_POOLED = {
    "velocity": (-0.3, 0.7, 0.8, 0.2),
    "duration": (-0.8, 0.7, 0.7, 0.2),
    "pitch": (-0.2, 0.5, 0.9, 0.2),
    "held": (0.05, 0.1, 0.1, 0.15),
    "short": (0.5, 0.3, 0.4, 0.1),
    "chord": (0.35, 0.1, 0.45, 0.05),
    "velocity step": (0.7, 0.25, 0.6, 0.2),
    "gap": (-1.5, 0.5, 0.8, 0.3),
    "overlap": (0.6, 0.5, 1.1, 0.4),
    "gap step": (0.9, 0.5, 0.7, 0.3),
}
_SINGLE = {
    "voicing": (0.3, 0.25),
    "density": (1.6, 0.6),
    "loudest": (1.5, 0.8),
    "softest": (-2.5, 1.0),
    "slow velocity": (0.4, 0.2),
    "slow gap": (0.2, 0.1),
}
NOTE_SCALE = (
    *(row[:2] for row in _POOLED.values()),
    *(row[2:] for row in _POOLED.values()),
    *_SINGLE.values(),
)
# Bands go up and down together, and there are many: each counts for a quarter of a figure.
_BAND_SCALE = ((0.85, 0.8), (0.35, 0.6))
_PHRASE = 16  # notes whose mean is the loudness or the pace of a moment
_SHORT_S = 0.12
_CHORD_BEATS = 1 / POSITIONS_PER_BEAT  # notes nearer than this lie on one position
_TINY = 1e-4  # under a root, whose slope is endless at 0


def note_figures(midi: Tensor, midi_notes: Tensor) -> Tensor:
    """Figures of performances.

    Means and deviations over the notes of velocity, of the logarithms of duration and of the time
    to the next chord, of their difference (how far a note lasts into the next), of pitch, of the
    shares of notes that are held to the longest token, short, or struck together, and of the steps
    from note to note. Then how velocity goes with pitch, notes a beat, the loudest and the softest
    note, and how far loudness and pace wander over phrases. Times between notes are in beats,
    which are seconds by a constant where MIDI was recorded at one tempo; a bar is taken to be as
    long as the last beat of the clip's bars says.

    Args:
        midi: (B, N, 8) OctupleMIDI rows, zero past the last note.
        midi_notes: (B,) how many of the N rows are notes; of none, figures mean nothing.

    Returns:
        (B, K) float32, K and about which values by ``NOTE_SCALE``.
    """
    real = real_positions(midi.shape[1], midi_notes)
    tokens = torch.where(real[:, :, None], midi, 0).float()
    velocity, pitch = (tokens[:, :, 5] - 64) / 16, (tokens[:, :, 3] - 44) / 12
    length = tokens[:, :, 4].clamp(min=1)
    duration = torch.log(length / (0.3 * DURATIONS_PER_S))
    onset = _onsets(tokens)
    inner = torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)  # another note follows
    beats = _step(onset)
    last = inner & (beats >= _CHORD_BEATS)  # of its chord
    gap = torch.log(beats.clamp(min=_CHORD_BEATS))
    before_last = last & torch.cat([last[:, 1:], torch.zeros_like(last[:, :1])], dim=1)
    columns = (
        (velocity, real),
        (duration, real),
        (pitch, real),
        (length >= MAX_DURATION, real),
        (length <= _SHORT_S * DURATIONS_PER_S, real),
        (~last, inner),
        (_step(velocity).abs(), inner),
        (gap, last),
        (duration - gap, last),
        (_step(gap).abs(), before_last),
    )
    means, deviations = _pooled(
        torch.stack([values.float() for values, _ in columns], dim=2),
        torch.stack([where for _, where in columns], dim=2),
    )
    away = [x - means[:, n : n + 1] for n, x in ((0, velocity), (2, pitch))]
    span = torch.where(real, onset - onset[:, :1], 0.0).amax(dim=1).clamp(min=1)
    single = (
        _mean(away[0] * away[1], real),
        torch.log(midi_notes.clamp(min=1) / span),
        torch.where(real, velocity, -4.0).amax(dim=1),
        torch.where(real, velocity, 4.0).amin(dim=1),
        _wandering(velocity, real),
        _wandering(gap, last),
    )
    return torch.cat([means, deviations, torch.stack(single, dim=1)], dim=1)


def spectrum_figures(spectrogram: Tensor, frames: Tensor) -> Tensor:
    """Deviation and mean step over time of every band.

    They tell how far notes stand out and how long they ring, as with the pedal. Means would tell
    which keys a piece has, and mislead in another.

    Args:
        spectrogram: (B, n_mels, F) log-mel, centred on 0.
        frames: (B,) how many of the F frames are real; of none, figures mean nothing.

    Returns:
        (B, K) float32, as ``spectrum_scale``.
    """
    real = real_positions(spectrogram.shape[2], frames)
    inner = torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)
    bands = spectrogram.float().transpose(1, 2)
    _, deviation = _pooled(bands, real[:, :, None])
    steps = _mean(
        functional.pad((bands[:, 1:] - bands[:, :-1]).abs(), (0, 0, 0, 1)), inner[:, :, None]
    )
    return torch.cat([deviation, steps], dim=1)


def spectrum_scale(n_mels: int) -> tuple[Scale, ...]:
    """Of each of ``spectrum_figures``: its mean over clips, and four times its deviation."""
    return tuple(scale for scale in _BAND_SCALE for _ in range(n_mels))


def _onsets(tokens: Tensor) -> Tensor:
    """(B, N) beats from the clip's first bar."""
    beats_a_bar = tokens[:, :, 1].amax(dim=1, keepdim=True) + 1
    return tokens[:, :, 7] * beats_a_bar + tokens[:, :, 1] + tokens[:, :, 2] / POSITIONS_PER_BEAT


def _step(x: Tensor) -> Tensor:
    """(B, N): from each to the next; the last has none, and 0."""
    return functional.pad(x[:, 1:] - x[:, :-1], (0, 1))


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Over dimension 1, of what is real; 0 of nothing."""
    return torch.where(where, x, 0.0).sum(dim=1) / where.sum(dim=1).clamp(min=1)


def _pooled(x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over dimension 1, of what is real; about 0 of nothing."""
    mean = _mean(x, where)
    return mean, (_mean((x - mean[:, None]).square(), where) + _TINY).sqrt()


def _wandering(x: Tensor, where: Tensor) -> Tensor:
    """(B,): deviation of the means over phrases, each weighed by what is real in it."""
    rest = -x.shape[1] % _PHRASE
    kept, count = (
        functional.pad(t, (0, rest)).view(len(x), -1, _PHRASE).sum(dim=2)
        for t in (torch.where(where, x, 0.0), where.float())
    )
    means, total = kept / count.clamp(min=1), count.sum(dim=1).clamp(min=1)
    centre = (means * count).sum(dim=1) / total
    spread = ((means - centre[:, None]).square() * count).sum(dim=1) / total
    return (spread + _TINY).sqrt()
