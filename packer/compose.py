"""Piano pieces made by the rules of harmony, and played by somebody with habits. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from symusic.core import KeySignatureTick, ScoreTick, TempoTick, TimeSignatureTick

from packer.perform import TICKS_PER_QUARTER, Bar, Tone, perform

SIXTEENTH = TICKS_PER_QUARTER // 4
BARS_A_PHRASE = 4

MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR = (0, 2, 3, 5, 7, 8, 10)
DOMINANT, LEADING = 4, 6  # scale degrees counted from 0
LOWEST, HIGHEST = 1, 13  # scale steps of the melody, which keeps above middle C

# Where a harmony may go: from the tonic out, through the subdominants, to the dominant.
NEXT = {0: (3, 5, 1, 4, 0), 1: (4, 4, 6), 2: (5, 3), 3: (4, 1, 0, 4), 4: (0, 5), 5: (3, 1), 6: (0,)}


@dataclass(frozen=True, slots=True)
class Meter:
    """A time signature, the melodic rhythms it invites, and its accompaniments, in sixteenths.

    An accompaniment is a list of (start, length, members): 0 is the bass, 1-3 the chord above it.
    """

    numerator: int
    denominator: int
    rhythms: tuple[tuple[int, ...], ...]
    patterns: tuple[tuple[tuple[int, int, tuple[int, ...]], ...], ...]

    @property
    def sixteenths(self) -> int:
        return self.numerator * 16 // self.denominator


def _run(order: Sequence[int], length: int) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """Return a broken chord: single members in this order, all of one length."""
    return tuple((i * length, length, (member,)) for i, member in enumerate(order))


METERS = (
    Meter(
        4,
        4,
        ((4, 4, 4, 4), (4, 2, 2, 4, 4), (6, 2, 4, 4), (8, 2, 2, 2, 2), (2, 2, 4, 1, 1, 2, 4)),
        (
            _run((1, 3, 2, 3, 1, 3, 2, 3), 2),  # Alberti
            _run((0, 1, 2, 3, 2, 1, 2, 3), 2),
            ((0, 8, (0, 1, 2, 3)), (8, 8, (1, 2, 3))),  # blocks
        ),
    ),
    Meter(
        3,
        4,
        ((4, 4, 4), (8, 4), (6, 2, 4), (4, 2, 2, 4), (2, 2, 2, 2, 4)),
        (
            ((0, 4, (0,)), (4, 4, (1, 2, 3)), (8, 4, (1, 2, 3))),  # waltz
            _run((0, 1, 2, 3, 2, 1), 2),
        ),
    ),
    Meter(
        6,
        8,
        ((6, 6), (4, 2, 4, 2), (2, 2, 2, 6), (2, 2, 2, 2, 2, 2), (6, 4, 2)),
        (_run((0, 1, 2, 3, 2, 1), 2), ((0, 6, (0,)), (6, 6, (1, 2, 3)))),
    ),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A tonic pitch class and a mode; scale steps count from the tonic at or above middle C."""

    tonic: int
    minor: bool

    @property
    def scale(self) -> frozenset[int]:
        """Pitch classes that belong: in minor with the leading tone of the dominant."""
        degrees = {*MINOR, 11} if self.minor else set(MAJOR)
        return frozenset((self.tonic + degree) % 12 for degree in degrees)

    def pitch(self, step: int, *, degree: int) -> int:
        """Return the MIDI pitch of a scale step while the chord of ``degree`` sounds."""
        octave, within = divmod(step, 7)
        raised = self.minor and within == LEADING and degree in (DOMINANT, LEADING)
        mode = MINOR if self.minor else MAJOR
        return 60 + self.tonic + 12 * octave + mode[within] + int(raised)


def compose_piece(rng: Generator, *, seconds: float) -> ScoreTick:
    """Return a piece of at least ``seconds``, to the end of the phrase in progress then.

    One piano track with notes in 21..108 and sustain pedal; a tempo event every bar; time and key
    signatures. 480 ticks a quarter.

    Raises:
        ValueError: if ``seconds`` is not positive and finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be above 0 and finite, got {seconds}")
    key = Key(int(rng.integers(12)), bool(rng.random() < 0.4))
    quarters_a_minute = rng.uniform(66, 116)
    meter = METERS[rng.integers(len(METERS))]
    bars: list[Bar] = []
    tones: list[Tone] = []
    clock_s, step = 0.0, 2
    while clock_s < seconds:
        if bars and rng.random() < 0.2:
            meter = METERS[rng.integers(len(METERS))]
        phrase = _phrase_bars(rng, bars, meter=meter, quarters_a_minute=quarters_a_minute)
        clock_s += sum(bar.ticks * 60 / TICKS_PER_QUARTER / bar.qpm for bar in phrase)
        degrees = _progression(rng, closed=clock_s >= seconds or rng.random() < 0.5)
        melody, step = _melody(rng, key, phrase, degrees=degrees, meter=meter, step=step)
        hands = melody + _accompaniment(rng, key, phrase, degrees=degrees, meter=meter)
        tones += [replace(tone, bar=tone.bar + len(bars)) for tone in hands]
        bars += phrase
    score = _staves(key, bars)
    score.tracks.append(perform(rng, bars, tones, scale=key.scale))
    return score


def _staves(key: Key, bars: Sequence[Bar]) -> ScoreTick:
    """Return a score without notes: key, time signature where it changes, a tempo every bar."""
    score = ScoreTick(TICKS_PER_QUARTER)
    score.key_signatures.append(KeySignatureTick(0, _sharps(key), int(key.minor)))
    before = None
    for bar in bars:
        if bar.signature != before:
            score.time_signatures.append(TimeSignatureTick(bar.tick, *bar.signature))
            before = bar.signature
        score.tempos.append(TempoTick(bar.tick, qpm=bar.qpm))
    return score


def _sharps(key: Key) -> int:
    """Return the sharps (negative: flats) of the signature, in -5..6."""
    relative_major = key.tonic + (3 if key.minor else 0)
    return (relative_major * 7 + 5) % 12 - 5


def _phrase_bars(
    rng: Generator, before: Sequence[Bar], *, meter: Meter, quarters_a_minute: float
) -> list[Bar]:
    """Return the next phrase's bars with rubato: forward in the middle, held back at the end."""
    tick = before[-1].tick + before[-1].ticks if before else 0
    ticks = meter.sixteenths * SIXTEENTH
    breath = np.array([1.0, 1.05, 1.03, rng.uniform(0.78, 0.92)])
    qpm = quarters_a_minute * breath * rng.normal(1, 0.03, BARS_A_PHRASE)
    share = 1 / BARS_A_PHRASE
    signature = (meter.numerator, meter.denominator)
    return [
        Bar(tick + i * ticks, ticks, signature, float(qpm[i]), i * share, share)
        for i in range(BARS_A_PHRASE)
    ]


def _progression(rng: Generator, *, closed: bool) -> list[int]:
    """Return the chord degrees of a phrase: from the tonic to a full or a half cadence."""
    degrees = [0]
    while len(degrees) < BARS_A_PHRASE - 2:
        degrees.append(int(rng.choice(NEXT[degrees[-1]])))
    return degrees + ([DOMINANT, 0] if closed else [int(rng.choice((1, 3))), DOMINANT])


def _melody(
    rng: Generator,
    key: Key,
    bars: Sequence[Bar],
    *,
    degrees: Sequence[int],
    meter: Meter,
    step: int,
) -> tuple[list[Tone], int]:
    """Return the upper voice of a phrase, and the scale step where the next one goes on.

    Two rhythms alternate, so that bars answer each other. Chord tones fall on long notes and on
    the first of each bar, steps in between; the last bar is one long tone and a rest.
    """
    motifs = [meter.rhythms[i] for i in rng.integers(len(meter.rhythms), size=2)]
    tones = []
    for i, (bar, degree) in enumerate(zip(bars, degrees, strict=True)):
        last = i == len(bars) - 1
        rhythm = (meter.sixteenths * 3 // 4,) if last else motifs[i % 2]
        tick = bar.tick
        for length in rhythm:
            anchored = tick == bar.tick or length >= 4
            step = _next_step(rng, step, degree=degree, anchored=anchored)
            pitch = key.pitch(step, degree=degree)
            tones.append(Tone(tick, length * SIXTEENTH, pitch, i, True))
            tick += length * SIXTEENTH
    return tones, step


def _next_step(rng: Generator, step: int, *, degree: int, anchored: bool) -> int:
    """Return the next scale step: a chord tone nearby when anchored, else a neighbour."""
    if not anchored:
        step += int(rng.choice((-1, 1)))
    else:
        wish = step + int(rng.integers(-3, 4))
        step = min(
            range(wish - 2, wish + 3),
            key=lambda s: ((s - degree) % 7 not in (0, 2, 4), abs(s - wish)),
        )
    return LOWEST + abs(step - LOWEST) if step <= HIGHEST else 2 * HIGHEST - step  # mirrored


def _accompaniment(
    rng: Generator, key: Key, bars: Sequence[Bar], *, degrees: Sequence[int], meter: Meter
) -> list[Tone]:
    """Return the left hand of a phrase: one pattern throughout, below middle C."""
    pattern = meter.patterns[rng.integers(len(meter.patterns))]
    tones = []
    for i, (bar, degree) in enumerate(zip(bars, degrees, strict=True)):
        chord = _voicing(key, degree)
        for start, length, members in pattern:
            tick, ticks = bar.tick + start * SIXTEENTH, length * SIXTEENTH
            tones += [Tone(tick, ticks, chord[member], i, False) for member in members]
    return tones


def _voicing(key: Key, degree: int) -> tuple[int, int, int, int]:
    """Return the bass in 31..42 and the triad in close position within 46..58."""
    triad = [key.pitch(degree + third, degree=degree) for third in (0, 2, 4)]
    low, middle, high = sorted(46 + (pitch - 46) % 12 for pitch in triad)
    return 31 + (triad[0] - 31) % 12, low, middle, high
