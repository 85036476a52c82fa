"""Six ratings of a performance, 0 to 100, computed from its notes and nothing else. Pure.

They are stand-ins for human ratings with the virtue of being known: whatever separates two
excerpts here can be heard in the audio and read in the MIDI. Every rating is a line clipped to
0..100 and rounded to 0.1.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from symusic.core import ScoreSecond, ScoreTick

DIMENSIONS = (
    "note_accuracy",
    "rhythmic_precision",
    "tone_quality",
    "dynamics_control",
    "articulation",
    "pedaling",
)
SUSTAIN = 64
MIDDLE_C = 60  # parts the hands
CHORD_S = 0.09  # onsets closer than this are one chord
KEY = (0, 2, 4, 5, 7, 8, 9, 11)  # a major scale, and the leading tone of its relative minor
KEYS = np.array(  # (12, 12): does a pitch class belong to the key
    [[(pitch_class - tonic) % 12 in KEY for pitch_class in range(12)] for tonic in range(12)]
)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The notes (N,) that begin within a window, by onset, and the pedal over the whole file."""

    onset_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    off_grid_s: NDArray[np.float64]  # onset minus the nearest sixteenth of the beat
    pitch: NDArray[np.int64]
    velocity: NDArray[np.int64]
    pedal_s: NDArray[np.float64]  # (P,) times of CC64 events, ascending
    pedal_down: NDArray[np.bool_]  # (P,) down after the event


def rate(score: ScoreTick, *, start_s: float, end_s: float) -> dict[str, float]:
    """Return the six ratings of the window [start_s, end_s) of a score, in DIMENSIONS' order.

    A window of fewer than two notes shows nothing: every rating of notes is 0 there.

    Raises:
        ValueError: if the window is empty.
    """
    if not start_s < end_s:
        raise ValueError(f"window is empty: start {start_s}, end {end_s}")
    excerpt = cut(score, start_s=start_s, end_s=end_s)
    values = dict.fromkeys(DIMENSIONS, 0.0)
    if len(excerpt.pitch) > 1:
        values["note_accuracy"] = note_accuracy(excerpt)
        values["rhythmic_precision"] = rhythmic_precision(excerpt)
        values["tone_quality"] = tone_quality(excerpt)
        values["dynamics_control"] = dynamics_control(excerpt)
        values["articulation"] = articulation(excerpt)
    values["pedaling"] = pedaling(excerpt, start_s=start_s, end_s=end_s)
    return {name: round(min(max(value, 0.0), 100.0), 1) for name, value in values.items()}


def cut(score: ScoreTick, *, start_s: float, end_s: float) -> Excerpt:
    """Return the excerpt whose onsets lie in [start_s, end_s), all tracks merged."""
    seconds = cast(ScoreSecond, score.to("second"))
    ticks = _column(score, "time")
    onset_s = _column(seconds, "time")
    grid = score.ticks_per_quarter / 4
    off_grid = (ticks - np.rint(ticks / grid) * grid) * _seconds_per_tick(score, ticks)
    inside = np.flatnonzero((onset_s >= start_s) & (onset_s < end_s))
    inside = inside[np.argsort(onset_s[inside], kind="stable")]
    pedal = sorted(
        (control.time, control.value >= SUSTAIN)
        for track in seconds.tracks
        for control in track.controls
        if control.number == SUSTAIN
    )
    return Excerpt(
        onset_s=onset_s[inside],
        duration_s=_column(seconds, "duration")[inside],
        off_grid_s=off_grid[inside],
        pitch=_column(score, "pitch")[inside].astype(np.int64),
        velocity=_column(score, "velocity")[inside].astype(np.int64),
        pedal_s=np.array([time for time, _ in pedal], np.float64),
        pedal_down=np.array([down for _, down in pedal], np.bool_),
    )


def note_accuracy(excerpt: Excerpt) -> float:
    """100 when every note lies in the best-fitting key, 0 when 20% of the notes do not."""
    belongs = KEYS[:, excerpt.pitch % 12].mean(axis=1).max()
    return float(100 * (1 - (1 - belongs) / 0.20))


def rhythmic_precision(excerpt: Excerpt) -> float:
    """100 when all onsets lie on sixteenths of the written tempo, 0 at 40 ms off in the mean."""
    return float(100 * (1 - np.abs(excerpt.off_grid_s).mean() / 0.040))


def tone_quality(excerpt: Excerpt) -> float:
    """100 when neighbouring notes of a hand are equally loud, 0 at 18 velocity steps apart."""
    jumps = np.concatenate([np.abs(np.diff(excerpt.velocity[hand])) for hand in _hands(excerpt)])
    return float(100 * (1 - jumps.mean() / 18)) if jumps.size else 0.0


def dynamics_control(excerpt: Excerpt) -> float:
    """0 for one loudness throughout, 100 for 50 velocity steps between soft and loud seconds.

    Soft and loud are the 10th and 90th percentile over the mean velocities of each second.
    """
    second = np.floor(excerpt.onset_s - excerpt.onset_s[0]).astype(np.int64)
    counts = np.bincount(second)
    sums = np.bincount(second, weights=excerpt.velocity)
    loudness = sums[counts > 0] / counts[counts > 0]
    low, high = np.percentile(loudness, [10, 90])
    return float(100 * (high - low) / 50)


def articulation(excerpt: Excerpt) -> float:
    """100 for legato, less for staccato: the mean share of each note's time that it sounds.

    A note's time lasts until the next onset of the same hand that is no part of its chord.
    """
    shares = []
    for hand in _hands(excerpt):
        onset_s = excerpt.onset_s[hand]
        following = np.searchsorted(onset_s, onset_s + CHORD_S)
        known = following < len(onset_s)
        time_s = onset_s[following[known]] - onset_s[known]
        shares.append(np.minimum(excerpt.duration_s[hand][known] / time_s, 1))
    every = np.concatenate(shares)
    return float(100 * every.mean()) if every.size else 0.0


def pedaling(excerpt: Excerpt, *, start_s: float, end_s: float) -> float:
    """The percentage of the window with the sustain pedal down (CC64 at 64 or above)."""
    edges = np.clip(np.append(excerpt.pedal_s, end_s), start_s, end_s)
    return float(100 * np.diff(edges)[excerpt.pedal_down].sum() / (end_s - start_s))


def _hands(excerpt: Excerpt) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the notes below middle C, and of the others."""
    return np.flatnonzero(excerpt.pitch < MIDDLE_C), np.flatnonzero(excerpt.pitch >= MIDDLE_C)


def _column(score: ScoreTick | ScoreSecond, name: str) -> NDArray[np.float64]:
    """Return one attribute of all notes of all tracks, in stored order."""
    columns = [track.notes.numpy()[name].astype(np.float64) for track in score.tracks]
    return np.concatenate(columns) if columns else np.empty(0)


def _seconds_per_tick(score: ScoreTick, ticks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the length of a tick at each time; 120 quarters a minute before the first tempo."""
    changes = sorted((tempo.time, tempo.mspq) for tempo in score.tempos)
    starts = np.array([time for time, _ in changes])
    lengths = np.array([500_000, *(mspq for _, mspq in changes)]) / 1e6 / score.ticks_per_quarter
    return lengths[np.searchsorted(starts, ticks, side="right")]
