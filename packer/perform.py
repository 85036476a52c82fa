"""A pianist with habits: turns intended tones into played notes, imperfections included."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from symusic.core import ControlChangeTick, NoteTick, TrackTick

TICKS_PER_QUARTER = 480
SUSTAIN = 64  # the controller number of the right pedal
SHORTEST = 24  # ticks; below that a note is a click

# What a piece may ask of a pianist: the lowest and the highest value of each habit.
HABITS = {
    "slips": (0.0, 0.2),  # share of notes struck a semitone off
    "jitter_s": (0.001, 0.042),  # deviation of onsets from the score, one sigma
    "unevenness": (0.5, 13.0),  # deviation of velocities, one sigma
    "breadth": (0.0, 52.0),  # velocity steps from the edge to the summit of a phrase
    "legato": (0.25, 1.05),  # sounding share of a note's written length
    "pedal": (0.0, 1.0),  # share of a harmony with the pedal down
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: place and length in ticks, its meter, tempo and place in the phrase."""

    tick: int
    ticks: int
    signature: tuple[int, int]
    qpm: float  # quarters a minute
    phrase_start: float  # 0 at the start of the phrase, 1 at its end
    phrase_share: float  # how much of the phrase this bar is


@dataclass(frozen=True, slots=True)
class Tone:
    """One intended note, in ticks; ``bar`` is the position of its bar in the piece."""

    tick: int
    ticks: int
    pitch: int
    bar: int
    melody: bool


def draw_habits(rng: Generator, bars: int) -> dict[str, NDArray[np.float64]]:
    """Return (bars,) values of every habit: a level of the piece, and a slow drift around it.

    The drift has a knot every three bars or so, about six seconds: excerpts of one piece differ,
    and one excerpt is of a piece.
    """
    knots = np.linspace(0, bars - 1, max(2, bars // 3 + 1))
    habits = {}
    for name, (low, high) in HABITS.items():
        level = rng.uniform(low, high)
        drift = rng.normal(level, 0.3 * (high - low), len(knots))
        habits[name] = np.clip(np.interp(np.arange(bars), knots, drift), low, high)
    return habits


def perform(
    rng: Generator, bars: Sequence[Bar], tones: Sequence[Tone], *, scale: frozenset[int]
) -> TrackTick:
    """Return the piano track of one performance.

    Args:
        rng: what slips, shakes and drifts.
        bars: the bars in order, at least one.
        tones: the intended notes in any order.
        scale: pitch classes that belong; a slip goes outside where a semitone can.
    """
    habits = draw_habits(rng, len(bars))
    bar = np.array([tone.bar for tone in tones])
    tick = np.array([tone.tick for tone in tones])
    ticks = np.array([tone.ticks for tone in tones])
    ticks_per_s = np.array([b.qpm for b in bars])[bar] * TICKS_PER_QUARTER / 60
    shift = rng.normal(0, 1, len(tones)) * habits["jitter_s"][bar] * ticks_per_s
    onset = np.maximum(np.rint(tick + shift), 0).astype(np.int64)
    length = np.maximum(np.rint(ticks * habits["legato"][bar]), SHORTEST).astype(np.int64)
    slipped = rng.random(len(tones)) < habits["slips"][bar]
    pitch = np.array([tone.pitch for tone in tones])
    pitch[slipped] = [_slip(rng, int(p), scale) for p in pitch[slipped]]
    velocity = _velocities(rng, bars, tones, habits)
    track = TrackTick("piano", 0, False)
    for note in _playable(np.stack([onset, length, pitch, velocity], axis=1)):
        track.notes.append(NoteTick(*(int(value) for value in note)))
    for control in _pedalling(bars, habits["pedal"]):
        track.controls.append(control)
    return track


def _slip(rng: Generator, pitch: int, scale: frozenset[int]) -> int:
    """Return a neighbouring key, one outside the scale where there is one."""
    near = [pitch - 1, pitch + 1]
    wrong = [p for p in near if p % 12 not in scale] or near
    return int(rng.choice(wrong))


def _velocities(
    rng: Generator,
    bars: Sequence[Bar],
    tones: Sequence[Tone],
    habits: dict[str, NDArray[np.float64]],
) -> NDArray[np.int64]:
    """Return (tones,) velocities in 8..124: phrase arch, accent, voicing and unevenness."""
    bar = np.array([tone.bar for tone in tones])
    inside = np.array([(t.tick - bars[t.bar].tick) / bars[t.bar].ticks for t in tones])
    start = np.array([b.phrase_start for b in bars])[bar]
    share = np.array([b.phrase_share for b in bars])[bar]
    arch = np.sin(np.pi * np.clip(start + share * inside, 0, 1)) - 0.6
    voicing = np.where([tone.melody for tone in tones], 7, -7)
    accent = np.where(inside == 0, 3, 0)
    level = rng.uniform(52, 72) + habits["breadth"][bar] * arch + voicing + accent
    shaky = level + rng.normal(0, 1, len(tones)) * habits["unevenness"][bar]
    velocity: NDArray[np.int64] = np.clip(np.rint(shaky), 8, 124).astype(np.int64)
    return velocity


def _playable(notes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop and shorten rows (onset, length, pitch, velocity) until no key is struck while down.

    In a MIDI file two notes of one pitch that overlap cannot be told apart.
    """
    notes = notes[np.lexsort((notes[:, 0], notes[:, 2]))]
    same = np.append(notes[1:, 2] == notes[:-1, 2], False)
    room = np.where(same, np.append(notes[1:, 0], 0) - notes[:, 0], np.iinfo(np.int64).max)
    notes[:, 1] = np.minimum(notes[:, 1], room - 1)
    notes = notes[notes[:, 1] > 0]
    return notes[np.lexsort((notes[:, 2], notes[:, 0]))]


def _pedalling(bars: Sequence[Bar], shares: NDArray[np.float64]) -> list[ControlChangeTick]:
    """Return the pedal's events: down just after each harmony begins, up by its end."""
    events = []
    for bar, share in zip(bars, shares, strict=True):
        down = bar.tick + bar.ticks // 32  # after the bass, so that the last harmony is gone
        up = bar.tick + round(share * bar.ticks)
        if up > down:
            events.append(ControlChangeTick(down, SUSTAIN, 127))
            events.append(ControlChangeTick(up, SUSTAIN, 0))
    return events
