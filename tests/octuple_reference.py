"""OctupleMIDI tokens, written from the definition: slow and plain, with nothing of ours.

One row a note, by onset then pitch: type (0), beat in bar, position, pitch - 21, duration,
velocity, instrument (0), bar. A beat is the signature's denominator; no signature means 4/4, no
tempo 120.
"""

import io
import math
from fractions import Fraction

import pretty_midi

Signature = tuple[Fraction, int, int]  # tick, numerator, denominator


def octuple_rows(data: bytes, *, start_s: float = 0.0, end_s: float = math.inf) -> list[list[int]]:
    """Tokens of the notes that sound within a window of a MIDI file."""
    file = pretty_midi.PrettyMIDI(io.BytesIO(data))
    signatures = read_signatures(file)
    window_tick = exact_tick(file, start_s)
    window_bar, _ = bar_and_beat(window_tick, signatures, file.resolution)
    rows = []
    for instrument in file.instruments:
        if instrument.is_drum:
            continue
        for note in instrument.notes:
            if not 21 <= note.pitch <= 108 or note.start >= end_s or note.end <= start_s:
                continue
            onset_s = max(note.start, start_s) - start_s
            length_s = min(note.end, end_s) - start_s - onset_s
            tick = Fraction(int(file.time_to_tick(note.start)))
            bar, beat = bar_and_beat(max(tick, window_tick), signatures, file.resolution)
            token = [
                0,
                math.floor(beat),
                math.floor(16 * (beat - math.floor(beat))),
                note.pitch - 21,
                min(max(round(100 * length_s), 1), 127),
                note.velocity,
                0,
                min(bar - window_bar, 511),
            ]
            rows.append((onset_s, note.pitch, token))
    rows.sort(key=lambda row: row[:2])
    return [token for _, _, token in rows]


def read_signatures(file: pretty_midi.PrettyMIDI) -> list[Signature]:
    """Time signatures in order, the last of each tick, with one at the start."""
    by_tick = {Fraction(0): (4, 4)}
    for change in file.time_signature_changes:
        tick = Fraction(int(file.time_to_tick(change.time)))
        by_tick[tick] = (change.numerator, change.denominator)
    return [(tick, *by_tick[tick]) for tick in sorted(by_tick)]


def bar_and_beat(
    tick: Fraction, signatures: list[Signature], ticks_per_quarter: int
) -> tuple[int, Fraction]:
    """Bar of a tick and beat in that bar, both from 0, by walking through the piece bar by bar."""
    bar, bar_start, current = 0, Fraction(0), 0
    while True:
        _, numerator, denominator = signatures[current]
        ticks_per_beat = Fraction(4 * ticks_per_quarter, denominator)
        bar_end = bar_start + numerator * ticks_per_beat
        if current + 1 < len(signatures) and signatures[current + 1][0] <= bar_end:
            current += 1  # a new signature begins a new bar, if need be by a short one before it
            bar_end = signatures[current][0]
        if tick < bar_end:
            return bar, (tick - bar_start) / ticks_per_beat
        bar, bar_start = bar + 1, bar_end


def exact_tick(file: pretty_midi.PrettyMIDI, seconds: float) -> Fraction:
    """The tick, with its fraction, that sounds at a time, by following the tempos."""
    times, tempos = file.get_tempo_changes()
    tick, before, ticks_per_s = Fraction(0), Fraction(0), Fraction(0)
    for time, tempo in zip(times, tempos, strict=True):
        if time > seconds:
            break
        tick = Fraction(int(file.time_to_tick(time)))
        before = Fraction(time)
        ticks_per_s = Fraction(file.resolution * 1_000_000, round(60e6 / tempo))
    return tick + (Fraction(seconds) - before) * ticks_per_s
