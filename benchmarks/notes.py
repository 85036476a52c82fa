"""What a linear model can be told of a performance: six figures of its notes and its pedal."""

from pathlib import Path
from typing import Any

import numpy as np
import symusic
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NAMES = ("tempo", "density", "velocity", "velocity spread", "pedal share", "articulation ratio")
_CHORD_S = 0.03  # notes nearer than this were struck together


def features(path: Path) -> Floats:
    """(6,) of a MIDI file, as ``NAMES``.

    Tempo is the logarithm of the median time from one chord to the next, density that of notes a
    second; velocity and its spread are mean and deviation; the pedal share is how much of the time
    it is down; articulation is the logarithm of how long notes are held, by the time to the next.
    """
    score: Any = symusic.Score(path).to("second")
    notes = np.array(
        [(n.time, n.duration, n.velocity) for track in score.tracks for n in track.notes]
    )
    onsets, lengths, velocities = notes[np.argsort(notes[:, 0])].T
    gaps = np.diff(onsets)
    gaps = gaps[gaps > _CHORD_S]
    end = float((onsets + lengths).max())
    down = sum(pedal.duration for track in score.tracks for pedal in track.pedals)
    return np.array(
        [
            np.log(np.median(gaps)),
            np.log(len(onsets) / max(onsets[-1] - onsets[0], _CHORD_S)),
            velocities.mean(),
            velocities.std(),
            min(1.0, down / end),
            np.log(lengths.mean() / gaps.mean()),
        ]
    )


def ridge(x: Floats, y: Floats, new: Floats, *, penalty: float) -> Floats:
    """Predictions (M, D) for new (M, F) of a linear model of x (N, F) and y (N, D), closed form.

    Features are standardised; the constant is not penalised.
    """
    centre, spread, mean = x.mean(axis=0), x.std(axis=0), y.mean(axis=0)
    known, unknown = (x - centre) / spread, (new - centre) / spread
    weights = np.linalg.solve(
        known.T @ known + penalty * np.eye(known.shape[1]), known.T @ (y - mean)
    )
    predicted: Floats = unknown @ weights + mean
    return predicted
