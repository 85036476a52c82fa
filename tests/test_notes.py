"""shards.notes and shards.meter: MIDI read as pretty_midi reads it, and cut without a change."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import mido
import numpy as np
import pretty_midi
import pytest

from shards.errors import DecodeError
from shards.notes import cut_midi, empty_midi, end_time, parse_midi, read_notes

# of pretty_midi, which imports a package that is to be replaced
pytestmark = pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning")

RESOLUTIONS = (24, 96, 480, 1024, 32767)
PEDAL = 64


@dataclass(frozen=True)
class Event:
    """A MIDI message at a tick; of one tick, lower ranks come first."""

    tick: int
    rank: int
    message: mido.Message | mido.MetaMessage


def note(tick: int, length: int, pitch: int, velocity: int = 64, channel: int = 0) -> list[Event]:
    on = mido.Message("note_on", note=pitch, velocity=velocity, channel=channel)
    off = mido.Message("note_off", note=pitch, channel=channel)
    return [Event(tick, 2, on), Event(tick + length, 1, off)]


def tempo(tick: int, microseconds: int) -> Event:
    return Event(tick, 0, mido.MetaMessage("set_tempo", tempo=microseconds))


def meter(tick: int, numerator: int, denominator: int) -> Event:
    message = mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator)
    return Event(tick, 0, message)


def control(tick: int, value: int, number: int = PEDAL) -> Event:
    return Event(tick, 1, mido.Message("control_change", control=number, value=value))


def midi(*tracks: Sequence[Event], tpq: int = 480, kind: int = 1) -> bytes:
    file = mido.MidiFile(ticks_per_beat=tpq, type=kind)
    for events in tracks:
        track = mido.MidiTrack()
        before = 0
        for event in sorted(events, key=lambda event: (event.tick, event.rank)):
            track.append(event.message.copy(time=event.tick - before))
            before = event.tick
        file.tracks.append(track)
    target = io.BytesIO()
    file.save(file=target)
    return target.getvalue()


def performance(seed: int, *, tpq: int = 480, tracks: int = 2, beats: int = 40) -> bytes:
    """Random music: tempo and meter change, the pedal moves, keys repeat but never overlap."""
    rng = np.random.default_rng(seed)
    conductor = [tempo(0, 600_000), meter(0, 3, 4)]
    for beat in np.sort(rng.choice(np.arange(1, beats), 6, replace=False)):
        tick = int(beat * tpq + rng.integers(0, tpq))
        conductor.append(tempo(tick, int(rng.integers(200_000, 1_500_000))))
    for bar in range(3, beats // 3, 4):
        conductor.append(meter(bar * 3 * tpq, int(rng.integers(2, 8)), int(rng.choice([2, 4, 8]))))
    parts = [[control(0, 0)] for _ in range(tracks)]
    for part in range(tracks):
        for pitch in rng.choice(np.arange(21, 109), 12, replace=False):
            tick = int(rng.integers(0, 4 * tpq))
            while tick < beats * tpq:
                length = int(rng.integers(1, 6 * tpq))
                parts[part] += note(tick, length, int(pitch), int(rng.integers(1, 128)), part)
                tick += length + int(rng.integers(0, 4 * tpq))
        for tick in rng.integers(0, beats * tpq, 60):
            parts[part].append(control(int(tick), int(rng.integers(0, 128))))
    return midi(conductor, *parts, tpq=tpq)


def reference(data: bytes, start_s: float = 0.0, end_s: float = np.inf) -> np.ndarray:
    """(N, 4) onset, end, pitch, velocity by pretty_midi, of piano notes within a window."""
    file = pretty_midi.PrettyMIDI(io.BytesIO(data))
    rows = [
        (max(n.start, start_s) - start_s, min(n.end, end_s) - start_s, n.pitch, n.velocity)
        for instrument in file.instruments
        if not instrument.is_drum
        for n in instrument.notes
        if 21 <= n.pitch <= 108 and n.start < end_s and n.end > start_s
    ]
    return np.array(sorted(rows, key=lambda r: (r[0], r[2], r[1], r[3]))).reshape(-1, 4)


def ours(data: bytes, **window: float) -> np.ndarray:
    """The same of ``read_notes``; notes of one onset and pitch by end and velocity."""
    table = read_notes(data, **window).table
    rows = np.stack([table[:, 0], table[:, 0] + table[:, 1], table[:, 2], table[:, 3]], axis=1)
    return rows[np.lexsort((rows[:, 3], rows[:, 1], rows[:, 2], rows[:, 0]))]


def pedal_at(data: bytes, times: np.ndarray) -> list[list[int]]:
    """Value of the pedal of each instrument at some times, 0 before its first event."""
    file = pretty_midi.PrettyMIDI(io.BytesIO(data))
    values = []
    for instrument in file.instruments:
        events = [(c.time, c.value) for c in instrument.control_changes if c.number == PEDAL]
        values.append([([0] + [v for t, v in events if t <= time])[-1] for time in times])
    return values


# --- notes of a whole file


@pytest.mark.parametrize("tpq", RESOLUTIONS)
@pytest.mark.parametrize("seed", [1, 2])
def test_notes_equal_those_of_pretty_midi(tpq, seed):
    """To the bit, so that lengths halfway between two tokens are rounded alike."""
    data = performance(seed, tpq=tpq)
    assert len(ours(data)) > 100
    table, expected = read_notes(data).table, reference(data)
    assert np.array_equal(ours(data)[:, [0, 2, 3]], expected[:, [0, 2, 3]])
    lengths = sorted((expected[:, 1] - expected[:, 0]).tolist())
    assert sorted(table[:, 1].tolist()) == lengths


def test_notes_come_by_onset_and_then_pitch():
    table = read_notes(performance(3)).table
    assert np.array_equal(table, table[np.lexsort((table[:, 2], table[:, 0]))])
    chord = midi([*note(0, 100, 67), *note(0, 100, 60), *note(0, 100, 64)])
    assert read_notes(chord).table[:, 2].tolist() == [60, 64, 67]


def test_one_track_of_a_type_0_file_is_read():
    data = midi([tempo(0, 400_000), tempo(960, 300_000), *note(0, 960, 60), *note(960, 480, 62)])
    assert np.array_equal(ours(data), reference(data))
    assert np.array_equal(
        ours(midi([*note(0, 480, 60), *note(480, 480, 61, channel=1)], kind=0))[:, 2], [60, 61]
    )


def test_drums_and_keys_that_a_piano_lacks_are_left_out_and_counted():
    data = midi(
        [*note(0, 480, 60), *note(0, 480, 20), *note(0, 480, 109), *note(0, 480, 21)],
        [*note(0, 480, 40, channel=9)],
        [*note(0, 480, 108, channel=1)],
    )
    notes = read_notes(data)
    assert notes.table[:, 2].tolist() == [21, 60, 108]
    assert notes.left_out == 3
    assert np.array_equal(ours(data), reference(data))


def test_notes_without_length_are_left_out_and_counted():
    on, off = (Event(480, 1, mido.Message(kind, note=60)) for kind in ("note_on", "note_off"))
    notes = read_notes(midi([*note(0, 480, 64), on, off]))
    assert notes.table[:, 2].tolist() == [64]
    assert notes.left_out == 1


def test_a_note_on_of_velocity_0_ends_a_note():
    end = Event(480, 1, mido.Message("note_on", note=60, velocity=0))
    data = midi([note(0, 480, 60)[0], end])
    assert np.array_equal(ours(data), reference(data))
    assert ours(data).tolist() == [[0.0, 0.5, 60.0, 64.0]]


def test_a_key_that_is_struck_again_as_it_is_let_go_makes_two_notes():
    data = midi([*note(0, 480, 60, 50), *note(480, 480, 60, 70)])
    assert np.array_equal(ours(data), reference(data))
    assert len(ours(data)) == 2


def test_overlapping_notes_of_one_key_end_in_the_order_they_began():
    """Where pretty_midi ends both with the first note-off, and so loses half of the second."""
    data = midi([*note(0, 960, 60, 50), *note(480, 960, 60, 70)])
    assert ours(data).tolist() == [[0.0, 1.0, 60.0, 50.0], [0.5, 1.5, 60.0, 70.0]]


def test_without_a_tempo_it_is_120_and_without_a_meter_4_4():
    table = read_notes(midi([*note(480 * 9 + 120, 240, 60)])).table
    assert table.tolist() == [[4.625, 0.25, 60.0, 64.0, 2.0, 1.25]]


def test_of_two_tempos_at_a_tick_the_last_holds():
    data = midi([tempo(480, 1_000_000), tempo(480, 250_000), *note(480, 480, 60)])
    assert read_notes(data).table[0, :2].tolist() == [0.5, 0.25]


def test_an_empty_file_is_a_file_without_notes():
    assert len(read_notes(empty_midi()).table) == 0
    assert read_notes(empty_midi()).table.shape == (0, 6)
    assert end_time(parse_midi(empty_midi())) == 0.0
    file = pretty_midi.PrettyMIDI(io.BytesIO(empty_midi()))
    assert (file.resolution, file.get_tempo_changes()[1].tolist()) == (480, [120.0])
    assert not any(instrument.notes for instrument in file.instruments)


def test_the_end_is_that_of_the_last_note():
    data = performance(4)
    expected = max(
        n.end for i in pretty_midi.PrettyMIDI(io.BytesIO(data)).instruments for n in i.notes
    )
    assert end_time(parse_midi(data)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("data", [b"", b"RIFF....", b"MThd", performance(1)[:-200], b"\0" * 100])
def test_what_is_no_midi_is_refused(data):
    with pytest.raises(DecodeError, match="not a readable MIDI file"):
        read_notes(data)


@pytest.mark.parametrize("cut", [1, 5, 200, 1000])
def test_a_file_that_was_cut_off_is_refused_before_it_is_parsed(cut):
    """Its parser would read on, and take for notes what lies behind the file in memory."""
    with pytest.raises(DecodeError, match=r"cut off in track [23] of 3, at byte \d+"):
        read_notes(performance(1)[:-cut])


def test_a_file_of_fewer_tracks_than_it_says_is_refused():
    data = bytearray(midi([*note(0, 480, 60)]))
    data[11] += 1
    with pytest.raises(DecodeError, match="cut off in track 2 of 2"):
        read_notes(bytes(data))


def test_no_damaged_byte_brings_the_parser_down():
    """Whatever it makes of them: notes, or an error of the data."""
    rng = np.random.default_rng(0)
    good = performance(2, tracks=1, beats=8)
    refused = 0
    for _ in range(1000):
        data = bytearray(good)
        data[rng.integers(0, len(data))] = rng.integers(0, 256)
        try:
            assert np.isfinite(read_notes(bytes(data)).table).all()
        except DecodeError:
            refused += 1
    assert 0 < refused < 1000


def test_smpte_time_is_refused():
    data = bytearray(midi([*note(0, 480, 60)]))
    data[12:14] = b"\xe7\x28"  # 25 frames a second, 40 ticks a frame
    with pytest.raises(DecodeError, match="MIDI"):
        read_notes(bytes(data))


# --- bars and beats


def bars(data: bytes, **window: float) -> list[tuple[float, float]]:
    return [(float(bar), float(beat)) for bar, beat in read_notes(data, **window).table[:, 4:]]


def every(step: int, count: int, start: int = 0) -> list[Event]:
    """Short notes at even ticks."""
    return [event for i in range(count) for event in note(start + i * step, 10, 60)]


def test_a_beat_is_the_denominators():
    six_eight = midi([meter(0, 6, 8), *every(240, 8)])
    assert bars(six_eight) == [(i // 6, i % 6) for i in range(8)]
    two_two = midi([meter(0, 2, 2), *every(480, 6)])
    assert bars(two_two) == [(0, 0.0), (0, 0.5), (0, 1.0), (0, 1.5), (1, 0.0), (1, 0.5)]


def test_a_new_signature_begins_a_new_bar():
    """Also in the middle of one, which then is short."""
    data = midi([meter(0, 4, 4), meter(480 * 6, 3, 8), *every(480, 9)])
    assert bars(data) == [
        *[(0, beat) for beat in range(4)],
        *[(1, beat) for beat in range(2)],
        *[(2, 0.0), (2, 2.0), (3, 1.0)],
    ]


def test_a_signature_after_the_first_notes_leaves_4_4_before_it():
    data = midi([meter(480 * 5, 3, 4), *every(480, 8)])
    assert bars(data) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_bars_count_from_the_one_that_holds_the_windows_start():
    data = midi([meter(0, 3, 4), *every(480, 12)])
    assert bars(data, start_s=2.1, end_s=4.1) == [(0, 2), (1, 0), (1, 1), (1, 2)]


def test_a_note_that_sounds_at_the_windows_start_has_its_bar_and_beat():
    data = midi([*note(0, 4800, 60), *note(480 * 5, 480, 62)])
    assert read_notes(data, start_s=2.25, end_s=4.0).table.tolist() == [
        [0.0, 1.75, 60.0, 64.0, 0.0, 0.5],
        [0.25, 0.5, 62.0, 64.0, 0.0, 1.0],
    ]


def test_a_beat_at_the_start_shifts_all_bars_up_to_a_new_signature():
    data = midi([meter(0, 4, 4), meter(480 * 6, 3, 4), *every(480, 7)])
    table = read_notes(data, beat=2.5).table
    assert table[:, 4].tolist() == [0, 0, 1, 1, 1, 1, 3]  # the third of them has half a beat
    assert table[:, 5].tolist() == [2.5, 3.5, 0.5, 1.5, 2.5, 3.5, 0.0]


# --- windows


WINDOWS = [(0.0, 5.0), (3.3, 9.1), (7.0, 7.5), (10.000001, 20.0)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("tpq", RESOLUTIONS)
def test_a_window_is_that_of_pretty_midi(tpq, window):
    data = performance(5, tpq=tpq)
    found = ours(data, start_s=window[0], end_s=window[1])
    expected = reference(data, *window)
    assert len(found) == len(expected) > 0
    assert np.allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("tpq", RESOLUTIONS)
def test_a_cut_has_the_notes_of_its_window(tpq, window):
    """Within 1 ms, with exact pitch and velocity, also for notes across either edge."""
    data = performance(6, tpq=tpq)
    cut = cut_midi(parse_midi(data), start_s=window[0], end_s=window[1])
    expected = reference(data, *window)
    found = reference(cut.midi)
    assert cut.notes == len(found) == len(expected) > 0
    order = np.lexsort((expected[:, 1], expected[:, 3], expected[:, 2]))
    again = np.lexsort((found[:, 1], found[:, 3], found[:, 2]))
    assert np.array_equal(found[again][:, 2:], expected[order][:, 2:])
    assert np.abs(found[again][:, :2] - expected[order][:, :2]).max() < 1e-3
    assert window[0] == 0 or (expected[:, 0] == 0).any()
    assert (expected[:, 1] == window[1] - window[0]).any()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("tpq", RESOLUTIONS)
def test_a_cut_keeps_bars_and_beats(tpq, window):
    """Its notes and ``beat`` say the same as reading the window out of the whole."""
    data = performance(7, tpq=tpq)
    cut = cut_midi(parse_midi(data), start_s=window[0], end_s=window[1])
    found = read_notes(cut.midi, beat=cut.beat).table
    expected = read_notes(data, start_s=window[0], end_s=window[1]).table
    found, expected = (t[np.lexsort((t[:, 0], t[:, 3], t[:, 2]))] for t in (found, expected))
    assert np.array_equal(found[:, 2:5], expected[:, 2:5])
    assert np.allclose(found[:, 5], expected[:, 5], rtol=0, atol=1e-3)
    whole = read_notes(data).table
    later = whole[:, 0] >= window[0]
    assert cut.bar <= whole[later, 4].min()


def test_a_cut_says_where_in_the_meter_it_starts():
    data = midi([meter(0, 3, 4), meter(480 * 6, 6, 8), *every(480, 12)])
    places = [cut_midi(parse_midi(data), start_s=s, end_s=5.5) for s in (0.0, 0.5, 1.75, 3.0, 3.25)]
    assert [(cut.bar, round(cut.beat, 9)) for cut in places] == [
        (0, 0.0),
        (0, 1.0),
        (1, 0.5),
        (2, 0.0),
        (2, 1.0),
    ]


def test_a_cut_keeps_the_tempo_map():
    data = midi([tempo(0, 400_000), tempo(960, 800_000), tempo(1440, 300_000), *note(0, 4800, 60)])
    cut = cut_midi(parse_midi(data), start_s=1.0, end_s=2.5)
    times, tempos = pretty_midi.PrettyMIDI(io.BytesIO(cut.midi)).get_tempo_changes()
    assert np.allclose(times, [0.0, 0.6], rtol=0, atol=1e-4)
    assert np.allclose(60 / tempos, [0.8, 0.3])


def test_a_cut_keeps_the_time_and_key_signatures():
    key = Event(0, 0, mido.MetaMessage("key_signature", key="Eb"))
    later = Event(480 * 4, 0, mido.MetaMessage("key_signature", key="F#m"))
    data = midi([meter(0, 3, 4), meter(480 * 3, 6, 8), key, later, *note(0, 4800, 60)])
    cut = cut_midi(parse_midi(data), start_s=1.0, end_s=4.0)
    file = pretty_midi.PrettyMIDI(io.BytesIO(cut.midi))
    signatures = [(s.numerator, s.denominator, s.time) for s in file.time_signature_changes]
    assert signatures == [(3, 4, 0.0), (6, 8, pytest.approx(0.5, abs=1e-4))]
    keys = [(s.key_number, s.time) for s in file.key_signature_changes]
    assert keys == [(3, 0.0), (18, pytest.approx(1.0, abs=1e-4))]


@pytest.mark.parametrize("tpq", RESOLUTIONS)
def test_a_cut_keeps_the_pedal_and_its_state_at_the_cut(tpq):
    data = performance(8, tpq=tpq)
    cut = cut_midi(parse_midi(data), start_s=4.0, end_s=12.0).midi
    file = pretty_midi.PrettyMIDI(io.BytesIO(data))
    events = np.array([c.time for i in file.instruments for c in i.control_changes])
    times = np.arange(4.0, 12.0, 0.01)
    clear = np.abs(times[:, None] - events).min(axis=1) > 1e-3
    assert clear.sum() > 400
    found = pedal_at(cut, times[clear] - 4.0)
    assert found == pedal_at(data, times[clear])
    assert len({value for values in found for value in values}) > 5


def test_a_pedal_pressed_before_the_cut_is_down_in_it():
    data = midi([control(0, 0), control(480, 100), control(480, 7, 7), *note(0, 4800, 60)])
    cut = cut_midi(parse_midi(data), start_s=2.0, end_s=4.0).midi
    (instrument,) = pretty_midi.PrettyMIDI(io.BytesIO(cut)).instruments
    assert sorted((c.time, c.number, c.value) for c in instrument.control_changes) == [
        (0.0, 7, 7),
        (0.0, 64, 100),
    ]


def test_a_cut_keeps_pitch_bends_drums_and_programs():
    bend = Event(0, 1, mido.Message("pitchwheel", pitch=1000))
    program = Event(0, 0, mido.Message("program_change", program=6))
    data = midi([bend, program, *note(0, 1920, 60)], [*note(480, 960, 40, channel=9)])
    cut = cut_midi(parse_midi(data), start_s=0.75, end_s=1.0)
    piano, drums = pretty_midi.PrettyMIDI(io.BytesIO(cut.midi)).instruments
    assert (piano.program, piano.is_drum, drums.is_drum) == (6, False, True)
    assert [(b.time, b.pitch) for b in piano.pitch_bends] == [(0.0, 1000)]
    assert (len(drums.notes), cut.notes) == (1, 2)


def test_overlapping_notes_of_one_key_survive_a_cut():
    data = midi([*note(0, 1920, 60, 50), *note(480, 1920, 60, 70), *note(960, 1920, 60, 90)])
    cut = cut_midi(parse_midi(data), start_s=0.75, end_s=2.75).midi
    expected = ours(data, start_s=0.75, end_s=2.75)
    assert np.allclose(ours(cut), expected, rtol=0, atol=1e-4)
    assert expected[:, 3].tolist() == [50, 70, 90]


def test_a_window_without_notes_is_a_file_without_notes():
    data = midi([*note(0, 480, 60), *note(4800, 480, 60)])
    cut = cut_midi(parse_midi(data), start_s=1.0, end_s=4.0)
    assert cut.notes == 0
    assert len(reference(cut.midi)) == 0


def test_notes_that_touch_the_window_from_outside_are_not_in_it():
    data = midi([*note(0, 480, 60), *note(480, 480, 62), *note(960, 480, 64)])
    cut = cut_midi(parse_midi(data), start_s=0.5, end_s=1.0)
    assert reference(cut.midi)[:, 2].tolist() == [62]
    assert ours(data, start_s=0.5, end_s=1.0)[:, 2].tolist() == [62]


@pytest.mark.parametrize("bar", [11, 44, 77, 132])
def test_a_note_that_ends_as_a_window_starts_is_outside_whatever_rounding_says(bar):
    """Ticks of 25 ms, none of which is a binary fraction."""
    data = midi([tempo(0, 600_000), *note(0, bar, 60), *note(bar, 10, 62)], tpq=24)
    for edge in (bar * 0.025, bar / 40, bar * 600_000 / 24e6):
        assert ours(data, start_s=edge, end_s=99.0)[:, 2].tolist() == [62]
        assert ours(data, start_s=0.0, end_s=edge)[:, 2].tolist() == [60]
        assert cut_midi(parse_midi(data), start_s=edge, end_s=99.0).notes == 1


def test_a_window_far_into_a_long_recording_is_exact():
    """Two hours in, where ticks of single precision would be milliseconds apart."""
    start = 480 * 2 * 7200
    data = midi([tempo(0, 500_000), *note(0, 10, 60), *note(start + 480, 480, 61)])
    cut = cut_midi(parse_midi(data), start_s=7200.25, end_s=7202.0)
    assert np.allclose(ours(cut.midi)[0], [0.25, 0.75, 61, 64], rtol=0, atol=1e-5)


def test_equal_cuts_are_equal_bytes():
    score = parse_midi(performance(9))
    one, two = (cut_midi(score, start_s=2.0, end_s=6.0).midi for _ in range(2))
    assert one == two == cut_midi(parse_midi(performance(9)), start_s=2.0, end_s=6.0).midi


def test_thousands_of_events_without_status_bytes_are_read():
    events = (
        b"\x00\x90\x3c\x40" + b"\x01\x3c\x00\x00\x3c\x40" * 2500 + b"\x01\x3c\x00\x00\xff\x2f\x00"
    )
    track = b"MTrk" + len(events).to_bytes(4, "big") + events
    score = parse_midi(b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0" + track)
    assert len(score.tracks[0].notes) == 2501
