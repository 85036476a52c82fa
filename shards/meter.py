"""Tempo and meter maps: seconds, bars and beats of MIDI ticks."""

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

    Times are computed by pretty_midi's operations in its order, so that they equal its to the
    bit: a length of exactly 12.5 hundredths of a second must not be 12 here and 13 there.

    Attributes:
        ticks: (K,) int64 starts of the segments, the first at 0.
        tempos: (K,) int64 microseconds a quarter note.
        tick_s: (K,) seconds a tick.
        elapsed_s: (K,) seconds at each start.
    """

    ticks: Ticks
    tempos: Ticks
    tick_s: Seconds
    elapsed_s: Seconds

    def seconds(self, ticks: Ticks) -> Seconds:
        """Time of each tick."""
        seconds: Seconds
        if len(self.ticks) == 1:  # most files: no look-up of segments
            seconds = self.tick_s[0] * ticks
            return seconds
        at = np.searchsorted(self.ticks, ticks, side="right") - 1
        seconds = self.elapsed_s[at] + self.tick_s[at] * (ticks - self.ticks[at])
        return seconds

    def tick_at(self, seconds: float) -> float:
        """The (fractional) tick that sounds at a time of at least 0."""
        at = int(np.searchsorted(self.elapsed_s, seconds, side="right")) - 1
        return float(self.ticks[at] + (seconds - self.elapsed_s[at]) / self.tick_s[at])


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
        beat = 4 * self.ticks_per_quarter
        if len(self.ticks) == 1:  # most files: no look-up of segments
            units = ticks * self.denominators[0] + self.phase
            bars, in_bar = np.divmod(units, self.numerators[0] * beat)
            return bars, in_bar / beat
        at = np.searchsorted(self.ticks, ticks, side="right") - 1
        units = (ticks - self.ticks[at]) * self.denominators[at] + np.where(at == 0, self.phase, 0)
        bars, in_bar = np.divmod(units, self.numerators[at] * beat)
        return self.bars[at] + bars, in_bar / beat


def tempo_map(ticks: Ticks, tempos: Ticks, *, ticks_per_quarter: int) -> TempoMap:
    """Tempo map of the tempo events at ``ticks``, with 120 beats a minute before the first."""
    ticks, tempos = _segments(ticks, tempos, defaults=(_DEFAULT_TEMPO,), valid=tempos > 0)
    if len(ticks) == 1:
        tick_s = 60.0 / (6e7 / tempos * ticks_per_quarter)
        return TempoMap(ticks, tempos, tick_s, np.zeros(1))
    changed = np.append(True, tempos[1:] != tempos[:-1])  # else a sum in two parts rounds twice
    ticks, tempos = ticks[changed], tempos[changed]
    tick_s = 60.0 / (6e7 / tempos * ticks_per_quarter)
    elapsed_s = np.concatenate([[0.0], np.cumsum(tick_s[:-1] * np.diff(ticks))])
    return TempoMap(ticks, tempos, tick_s, elapsed_s)


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
    starts, numerators, denominators = _segments(
        ticks, numerators, denominators, defaults=_DEFAULT_METER, valid=valid
    )
    phase = round(beat * 4 * ticks_per_quarter)
    bars = np.zeros(len(starts), dtype=np.int64)
    if len(starts) > 1:
        units = np.diff(starts) * denominators[:-1]
        units[0] += phase
        bars[1:] = np.cumsum(-(-units // (numerators[:-1] * 4 * ticks_per_quarter)))
    return MeterMap(starts, numerators, denominators, bars, phase, ticks_per_quarter)


def _segments(
    ticks: Ticks, *columns: Ticks, defaults: tuple[int, ...], valid: NDArray[np.bool_]
) -> list[Ticks]:
    """Ticks and columns of events in order of time, the last of each tick, with one at tick 0."""
    if len(ticks) == 1 and ticks[0] == 0 and valid[0]:  # most files
        return [column.astype(np.int64) for column in (ticks, *columns)]
    order = np.argsort(ticks[valid], kind="stable")
    found = [
        np.concatenate([[first], column[valid][order]]).astype(np.int64)
        for first, column in zip((0, *defaults), (ticks, *columns), strict=True)
    ]
    last = np.append(found[0][1:] != found[0][:-1], True)
    return [column[last] for column in found]
