"""Tempo and meter maps: seconds, bars and beats of MIDI ticks, in exact integers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ticks = NDArray[np.int64]
Seconds = NDArray[np.float64]

_DEFAULT_TEMPO = 500_000  # microseconds a quarter: 120 beats a minute, the MIDI standard's
_DEFAULT_METER = (4, 4)


@dataclass(frozen=True, slots=True)
class TempoMap:
    """Piecewise constant tempo.

    Attributes:
        ticks: (K,) int64 starts of the segments, the first at 0.
        tempos: (K,) int64 microseconds a quarter note.
        elapsed: (K,) int64 time at each start, in microseconds times ``ticks_per_quarter``.
    """

    ticks: Ticks
    tempos: Ticks
    elapsed: Ticks
    ticks_per_quarter: int

    def seconds(self, ticks: Ticks) -> Seconds:
        """Time of each tick: integers up to one division, so the error is that of one rounding."""
        at = np.searchsorted(self.ticks, ticks, side="right") - 1
        exact = self.elapsed[at] + (ticks - self.ticks[at]) * self.tempos[at]
        return exact / (self.ticks_per_quarter * 1e6)

    def tick_at(self, seconds: float) -> float:
        """The (fractional) tick that sounds at a time of at least 0."""
        target = seconds * self.ticks_per_quarter * 1e6
        at = int(np.searchsorted(self.elapsed, target, side="right")) - 1
        return float(self.ticks[at] + (target - self.elapsed[at]) / self.tempos[at])


@dataclass(frozen=True, slots=True)
class MeterMap:
    """Piecewise constant meter. A new signature begins a new bar.

    Positions within a signature are counted in units of ``1 / (4 * ticks_per_quarter)`` of its
    beat, the note value of its denominator: a tick is ``denominator`` units, whatever the meter.

    Attributes:
        ticks: (K,) int64 starts of the segments, the first at 0.
        numerators, denominators: (K,) int64.
        bars: (K,) int64 number of the bar that each segment starts in.
        phase: units between the start of bar 0 and tick 0.
    """

    ticks: Ticks
    numerators: Ticks
    denominators: Ticks
    bars: Ticks
    phase: int
    ticks_per_quarter: int

    def bars_and_beats(self, ticks: Ticks) -> tuple[Ticks, Seconds]:
        """Bar number of each tick, and the beat in that bar, from 0, with its fraction."""
        at = np.searchsorted(self.ticks, ticks, side="right") - 1
        beat = 4 * self.ticks_per_quarter
        units = (ticks - self.ticks[at]) * self.denominators[at] + np.where(at == 0, self.phase, 0)
        bars, in_bar = np.divmod(units, self.numerators[at] * beat)
        return self.bars[at] + bars, in_bar / beat


def tempo_map(ticks: Ticks, tempos: Ticks, *, ticks_per_quarter: int) -> TempoMap:
    """Tempo map of the tempo events at ``ticks``, with 120 beats a minute before the first."""
    ticks, tempos = _segments(ticks, tempos, _DEFAULT_TEMPO, valid=tempos > 0)
    elapsed = np.concatenate([[0], np.cumsum(np.diff(ticks) * tempos[:-1])])
    return TempoMap(ticks, tempos, elapsed, ticks_per_quarter)


def meter_map(
    ticks: Ticks,
    numerators: Ticks,
    denominators: Ticks,
    *,
    ticks_per_quarter: int,
    beat: float = 0.0,
) -> MeterMap:
    """Meter map of the time signatures at ``ticks``, with 4/4 before the first.

    Args:
        beat: beat in bar 0 at tick 0, for music that was cut in the middle of a bar.
    """
    valid = (numerators > 0) & (denominators > 0)
    starts, numerators = _segments(ticks, numerators, _DEFAULT_METER[0], valid=valid)
    _, denominators = _segments(ticks, denominators, _DEFAULT_METER[1], valid=valid)
    phase = round(beat * 4 * ticks_per_quarter)
    units = np.diff(starts) * denominators[:-1]
    if len(units):
        units[0] += phase
    whole = -(-units // (numerators[:-1] * 4 * ticks_per_quarter))
    bars = np.concatenate([[0], np.cumsum(whole)])
    return MeterMap(starts, numerators, denominators, bars, phase, ticks_per_quarter)


def _segments(
    ticks: Ticks, values: Ticks, default: int, *, valid: NDArray[np.bool_]
) -> tuple[Ticks, Ticks]:
    """Events in order of time, the last of each tick, with one at tick 0."""
    order = np.argsort(ticks[valid], kind="stable")
    ticks = np.concatenate([[0], ticks[valid][order]]).astype(np.int64)
    values = np.concatenate([[default], values[valid][order]]).astype(np.int64)
    last = np.append(ticks[1:] != ticks[:-1], True)
    return ticks[last], values[last]
