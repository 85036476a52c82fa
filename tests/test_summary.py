"""trainer.summary: figures of a clip as plain arithmetic has them, whatever is padded behind it."""

import math
import statistics
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from trainer.summary import NOTE_SCALE, note_figures, spectrum_figures

# type, beat, position, pitch - 21, duration, velocity, instrument, bar: four beats a bar
NOTES = [
    (0, 0, 0, 30, 40, 60, 0, 0),
    (0, 0, 0, 46, 127, 80, 0, 0),
    (0, 0, 8, 50, 5, 64, 0, 0),
    (0, 2, 4, 41, 12, 33, 0, 0),
    (0, 3, 0, 44, 90, 71, 0, 0),
    (0, 0, 2, 60, 25, 99, 0, 1),
    *((0, n % 4, 3, 40 + n, 10 + 3 * n, 50 + 2 * n, 0, 2 + n // 4) for n in range(20)),
]


def tokens(rows: list[tuple[int, ...]], *, padding: int = 0) -> tuple[Tensor, Tensor]:
    padded = torch.zeros(1, len(rows) + padding, 8, dtype=torch.int64)
    padded[0, : len(rows)] = torch.tensor(rows)
    return padded, torch.tensor([len(rows)])


def found(rows: list[tuple[int, ...]], *, padding: int = 0) -> list[float]:
    figures: list[float] = note_figures(*tokens(rows, padding=padding))[0].tolist()
    return figures


def by_hand(rows: list[tuple[int, ...]]) -> list[float]:
    """The same, note by note."""
    velocity = [(r[5] - 64) / 16 for r in rows]
    duration = [math.log(r[4] / 30) for r in rows]
    pitch = [(r[3] - 44) / 12 for r in rows]
    onset = [4 * r[7] + r[1] + r[2] / 16 for r in rows]
    beats = [b - a for a, b in pairwise(onset)]
    gap = {n: math.log(b) for n, b in enumerate(beats) if b > 0}
    pooled = [
        velocity,
        duration,
        pitch,
        [float(r[4] == 127) for r in rows],
        [float(r[4] <= 12) for r in rows],
        [float(b == 0) for b in beats],
        [abs(b - a) for a, b in pairwise(velocity)],
        list(gap.values()),
        [duration[n] - g for n, g in gap.items()],
        [abs(gap[n + 1] - g) for n, g in gap.items() if n + 1 in gap],
    ]
    means = [statistics.fmean(x) for x in pooled]
    deviations = [math.sqrt(statistics.pvariance(x) + 1e-4) for x in pooled]
    away = [(v - means[0]) * (p - means[2]) for v, p in zip(velocity, pitch, strict=True)]
    return [
        *means,
        *deviations,
        statistics.fmean(away),
        math.log(len(rows) / (onset[-1] - onset[0])),
        max(velocity),
        min(velocity),
        wandering(dict(enumerate(velocity))),
        wandering(gap),
    ]


def wandering(values: dict[int, float]) -> float:
    """Deviation of the means over 16 notes, each counted as often as it has values."""
    parts = [[v for n, v in values.items() if n // 16 == part] for part in range(2)]
    return math.sqrt(statistics.pvariance([statistics.fmean(p) for p in parts for _ in p]) + 1e-4)


def test_figures_of_notes_are_those_counted_by_hand():
    figures = found(NOTES)
    assert len(figures) == len(NOTE_SCALE)
    np.testing.assert_allclose(figures, by_hand(NOTES), atol=1e-4)


def test_padding_behind_the_notes_changes_no_figure():
    np.testing.assert_allclose(found(NOTES, padding=37), found(NOTES), atol=1e-5)


def test_performances_of_no_note_of_one_and_of_one_chord_have_figures():
    midi = torch.zeros(3, 4, 8, dtype=torch.int64)
    midi[1:, :, 4:6] = 60
    figures = note_figures(midi, torch.tensor([0, 1, 4]))
    assert figures.dtype == torch.float32
    assert torch.isfinite(figures).all()
    assert figures.abs().max() < 20


def test_figures_of_a_spectrum_are_deviation_and_mean_step_of_each_band():
    rng = np.random.default_rng(0)
    shown = rng.normal(size=(2, 3, 9)).astype(np.float32)
    figures = spectrum_figures(torch.from_numpy(shown), torch.tensor([9, 5])).double().numpy()
    for row, frames in enumerate((9, 5)):
        x = shown[row, :, :frames].astype(np.float64)
        steps = np.abs(np.diff(x, axis=1)).mean(axis=1)
        wanted = np.concatenate([np.sqrt(x.var(axis=1) + 1e-4), steps])
        np.testing.assert_allclose(figures[row], wanted, atol=1e-5)


def test_what_lies_behind_a_clip_is_in_no_figure():
    shown = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    longer = torch.cat([shown, torch.full((1, 4, 3), 50.0)], dim=2)
    six = torch.tensor([6])
    torch.testing.assert_close(spectrum_figures(longer, six), spectrum_figures(shown, six))


def test_a_silent_clip_has_figures():
    assert torch.isfinite(spectrum_figures(torch.zeros(1, 4, 6), torch.tensor([0]))).all()
