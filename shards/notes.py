"""Notes of a MIDI file: as a table, and as a shorter MIDI file cut out of a longer one."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import symusic
from numpy.typing import NDArray

from shards.errors import DecodeError
from shards.events import require_events
from shards.meter import MeterMap, TempoMap, Ticks, meter_map, tempo_map

COLUMNS = ("onset_s", "duration_s", "pitch", "velocity", "bar", "beat")
LOWEST_PITCH, HIGHEST_PITCH = 21, 108  # the 88 keys of a piano
_FINE = 30_720  # ticks a quarter of a cut file: 16 us at 120, and a MIDI header holds up to 32,767
_HEADER, _HEADER_BYTES = b"MThd\0\0\0\6", 14
_GRID = 1 << 20  # parts of a tick: finer than any beat, coarser than rounding
_SEQUENCES = 2  # the type of a file whose tracks do not sound together
_SMPTE = 1 << 15
_EDGE_S = 1e-6  # notes that end as a window starts are outside it, whatever rounding says

NoteTable = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Notes:
    """Piano notes of a window, by onset and then pitch.

    Attributes:
        table: (N, 6) float64 ``COLUMNS``: seconds from the window's start, seconds, MIDI pitch,
            velocity, bar counted from the one that holds the window's start, beat in its bar.
        left_out: notes on channel 10, outside the 88 keys or without length: the table lacks them.
    """

    table: NoteTable
    left_out: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A window of a MIDI file as a file of its own.

    Attributes:
        midi: the file. Its ticks are finer than the source's, so that no event moves by more
            than a 61,440th of a quarter note: 8 us at 120.
        notes: how many notes it has.
        bar, beat: where in the source's meter the window starts: bar from 0, beat in that bar.
    """

    midi: bytes
    notes: int
    bar: int
    beat: float


def parse_midi(data: bytes) -> Any:
    """A symusic score in ticks.

    Raises:
        DecodeError: if it is damaged, of type 2 or in SMPTE time.
    """
    _require_readable(data)
    try:
        score: Any = symusic.Score.from_midi(data)
    except (RuntimeError, ValueError) as error:
        raise DecodeError(f"not a readable MIDI file: {error}") from error
    return score


def _require_readable(data: bytes) -> None:
    """Refuse a file of a kind that has no beats or no order, and one that is damaged or cut off.

    Of what is shorter than its chunks or events say, symusic reads on, beyond its memory.
    """
    start, tracks = _HEADER_BYTES, int.from_bytes(data[10:12], "big")
    if data[:8] != _HEADER or len(data) < start:
        raise DecodeError("not a readable MIDI file: it does not begin with a MIDI header")
    if int.from_bytes(data[8:10], "big") == _SEQUENCES:
        raise DecodeError("MIDI of type 2 (sequences that follow no order) is not supported")
    if not 0 < int.from_bytes(data[12:14], "big") < _SMPTE:
        raise DecodeError("MIDI in SMPTE time (frames, not beats) is not supported")
    for number in range(1, tracks + 1):
        stop = start + 8 + int.from_bytes(data[start + 4 : start + 8], "big")
        if len(data) < max(stop, start + 8):
            raise DecodeError(
                f"not a readable MIDI file: cut off in track {number} of {tracks}, at byte "
                f"{len(data)} of at least {stop}"
            )
        if data[start : start + 4] != b"MTrk":  # symusic looks for the next one, anywhere
            raise DecodeError(f"not a readable MIDI file: no track at byte {start}")
        require_events(data, start + 8, stop)
        start = stop


def empty_midi() -> bytes:
    """A valid MIDI file without notes: one track, 480 ticks a quarter, 120 beats a minute."""
    score: Any = symusic.Score(480)
    score.tempos = _tempos(np.array([0]), np.array([500_000]))
    score.tracks.append(symusic.Track())
    return bytes(score.dumps_midi())


def end_time(score: Any) -> float:
    """Seconds at which the last note of a score ends; 0 without notes."""
    ends = [_ends(track) for track in score.tracks if len(track.notes)]
    if not ends:
        return 0.0
    return float(_tempo_map(score).seconds(np.concatenate(ends).max(keepdims=True))[0])


def read_notes(
    data: bytes, *, start_s: float = 0.0, end_s: float | None = None, beat: float = 0.0
) -> Notes:
    """Piano notes of a MIDI file that sound within ``[start_s, end_s)``.

    A note that sounds when the window starts has onset 0 and its remaining length, and the bar
    and beat of the window's start; one that sounds when it ends is cut there.

    Args:
        data: content of a MIDI file.
        start_s: where the window starts, in seconds.
        end_s: where it ends; None is the end of the file.
        beat: beat in its bar at the file's start, for files cut in the middle of a bar.

    Raises:
        DecodeError: if the file cannot be parsed.
    """
    return notes_of(parse_midi(data), start_s=start_s, end_s=end_s, beat=beat)


def notes_of(
    score: Any, *, start_s: float = 0.0, end_s: float | None = None, beat: float = 0.0
) -> Notes:
    """Notes as ``read_notes`` has them, of a file that ``parse_midi`` has parsed."""
    onset, duration, pitch, velocity, left_out = _piano_notes(score)
    tempo, meter = _tempo_map(score), _meter_map(score, beat)
    start, end = tempo.seconds(onset), tempo.seconds(onset + duration)
    stop_s = np.inf if end_s is None else end_s
    first = 0
    if start_s > 0 or end.max(initial=0.0) > stop_s - _EDGE_S:
        kept = _sounding(start, end, start_s + _EDGE_S, stop_s - _EDGE_S)
        start = np.clip(start[kept], start_s, stop_s) - start_s
        end = np.clip(end[kept], start_s, stop_s) - start_s
        onset, pitch, velocity = onset[kept], pitch[kept], velocity[kept]
    if start_s > 0:  # between two ticks: bars and beats are read off a finer grid
        first, meter = round(tempo.tick_at(start_s) * _GRID), _refine(meter, _GRID)
        onset = np.maximum(onset * _GRID, first)
    bar, in_bar = meter.bars_and_beats(np.append(onset, first))
    columns = [start, end - start, pitch, velocity, bar[:-1] - bar[-1], in_bar[:-1]]
    table = np.stack(columns, axis=1, dtype=np.float64)
    return Notes(table[np.lexsort((table[:, 2], table[:, 0]))], left_out)


def cut_midi(score: Any, *, start_s: float, end_s: float) -> Cut:
    """The window ``[start_s, end_s)`` of a score.

    Tempo map, time and key signatures and the controllers and pitch bends of each track go
    along; what was set before the window is set at its start. Notes are clipped to it.

    Raises:
        DecodeError: if the score is of a damaged file.
    """
    tempo, meter = _tempo_map(score), _meter_map(score, 0.0)
    factor = _fineness(score, tempo.tick_at(end_s) - tempo.tick_at(start_s))
    first = round(tempo.tick_at(start_s) * factor)
    last = round(tempo.tick_at(end_s) * factor)
    window = _Window(first, last, factor)
    cut: Any = symusic.Score(score.ticks_per_quarter * factor)
    cut.tempos = _tempos(*window.state(tempo.ticks, tempo.tempos))
    cut.time_signatures = _signatures(
        *window.state(meter.ticks, meter.numerators, meter.denominators)
    )
    if len(score.key_signatures):
        keys = score.key_signatures.numpy()
        ticks, key, tonality = window.state(keys["time"], keys["key"], keys["tonality"])
        cut.key_signatures = symusic.KeySignature.from_numpy(
            ticks.astype(np.int32), key.astype(np.int8), tonality.astype(np.uint8), "tick"
        )
    cut.tracks = [_cut_track(track, window) for track in score.tracks]
    bar, beat = _refine(meter, factor).bars_and_beats(np.array([first]))
    midi = bytes(cut.dumps_midi())
    parse_midi(midi)  # what came of damaged events is not written into a shard
    return Cut(midi, cut.note_num(), int(bar[0]), float(beat[0]))


@dataclass(frozen=True, slots=True)
class _Window:
    """``[first, last)`` in fine ticks, ``factor`` of which make a tick of the source."""

    first: int
    last: int
    factor: int

    def state(self, ticks: Ticks, *values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Events within the window, and the last one before it moved to its start."""
        ticks = ticks.astype(np.int64) * self.factor
        order = np.argsort(ticks, kind="stable")
        low = max(int(np.searchsorted(ticks[order], self.first, side="right")) - 1, 0)
        high = int(np.searchsorted(ticks[order], self.last, side="left"))
        kept = order[low:high]
        return np.maximum(ticks[kept] - self.first, 0), *(value[kept] for value in values)


def _cut_track(track: Any, window: _Window) -> Any:
    cut: Any = symusic.Track(track.name, track.program, track.is_drum)
    notes = track.notes.numpy()
    onset = notes["time"].astype(np.int64) * window.factor
    end = onset + notes["duration"].astype(np.int64) * window.factor
    kept = _sounding(onset, end, window.first, window.last)
    start = np.clip(onset[kept], window.first, window.last) - window.first
    stop = np.clip(end[kept], window.first, window.last) - window.first
    pitch, velocity = notes["pitch"][kept], notes["velocity"][kept]
    ticks, lengths = start.astype(np.int32), (stop - start).astype(np.int32)
    cut.notes = symusic.Note.from_numpy(
        ticks, lengths, pitch.astype(np.int8), velocity.astype(np.int8), "tick"
    )
    cut.controls = _cut_controls(track.controls.numpy(), window)
    bends = track.pitch_bends.numpy()
    ticks, value = window.state(bends["time"], bends["value"])
    cut.pitch_bends = symusic.PitchBend.from_numpy(
        ticks.astype(np.int32), value.astype(np.int32), "tick"
    )
    return cut


def _cut_controls(controls: dict[str, NDArray[Any]], window: _Window) -> Any:
    """Controllers of a track, each with the value it has when the window starts."""
    parts = []
    for number in np.unique(controls["number"]):
        chosen = controls["number"] == number
        ticks, value = window.state(controls["time"][chosen], controls["value"][chosen])
        parts.append(np.stack([ticks, np.full_like(ticks, number), value.astype(np.int64)]))
    ticks, number, value = np.concatenate([np.empty((3, 0), np.int64), *parts], axis=1)
    order = np.argsort(ticks, kind="stable")
    return symusic.ControlChange.from_numpy(
        ticks[order].astype(np.int32),
        number[order].astype(np.uint8),
        value[order].astype(np.uint8),
        "tick",
    )


def _sounding(
    start: NDArray[Any], end: NDArray[Any], first: float, last: float
) -> NDArray[np.bool_]:
    """Which notes sound in ``[first, last)``; one without length never does."""
    inside: NDArray[np.bool_] = (start < last) & (end > first) & (end > start)
    return inside


def _piano_notes(score: Any) -> tuple[Ticks, Ticks, Ticks, Ticks, int]:
    """Onset, duration, pitch and velocity of the piano's notes, and how many others there are.

    Raises:
        DecodeError: if a note's are out of range.
    """
    melodic = [track.notes.numpy() for track in score.tracks if not track.is_drum]
    names = ("time", "duration", "pitch", "velocity")
    if len(melodic) == 1:
        columns = [melodic[0][name].astype(np.int64) for name in names]
    else:
        none = np.empty(0, np.int64)
        columns = [np.concatenate([none, *(notes[name] for notes in melodic)]) for name in names]
    onset, duration, pitch, velocity = columns
    if min(onset.min(initial=0), duration.min(initial=0)) < 0:
        raise DecodeError("MIDI of more than 2^31 ticks is not supported")
    piano = (pitch >= LOWEST_PITCH) & (pitch <= HIGHEST_PITCH) & (duration > 0)
    left_out = score.note_num() - int(np.count_nonzero(piano))
    if left_out == 0:
        return onset, duration, pitch, velocity, 0
    return onset[piano], duration[piano], pitch[piano], velocity[piano], left_out


def _ends(track: Any) -> Ticks:
    notes = track.notes.numpy()
    ends: Ticks = notes["time"].astype(np.int64) + notes["duration"]
    return ends


def _tempo_map(score: Any) -> TempoMap:
    events = score.tempos.numpy()
    return tempo_map(events["time"], events["mspq"], ticks_per_quarter=score.ticks_per_quarter)


def _meter_map(score: Any, beat: float) -> MeterMap:
    events = score.time_signatures.numpy()
    return meter_map(
        events["time"],
        events["numerator"],
        events["denominator"],
        ticks_per_quarter=score.ticks_per_quarter,
        beat=beat,
    )


def _fineness(score: Any, span: float) -> int:
    """How many fine ticks make a tick of the score, so that ``span`` of its ticks fit 31 bits."""
    return max(1, min(_FINE // int(score.ticks_per_quarter), int((2**31 - 2) / max(span, 1.0))))


def _refine(meter: MeterMap, factor: int) -> MeterMap:
    """The same meter in ticks ``factor`` times as fine."""
    return replace(
        meter,
        ticks=meter.ticks * factor,
        phase=meter.phase * factor,
        ticks_per_quarter=meter.ticks_per_quarter * factor,
    )


def _tempos(ticks: Ticks, tempos: Ticks) -> Any:
    return symusic.Tempo.from_numpy(ticks.astype(np.int32), tempos.astype(np.int32), "tick")


def _signatures(ticks: Ticks, numerators: Ticks, denominators: Ticks) -> Any:
    return symusic.TimeSignature.from_numpy(
        ticks.astype(np.int32), numerators.astype(np.uint8), denominators.astype(np.uint8), "tick"
    )
