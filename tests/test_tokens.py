"""loader.tokens: OctupleMIDI as an independent reference makes it, on made and on real files."""

import io
import json
import os
import runpy
from pathlib import Path

import mido
import numpy as np
import pytest

from loader.tokens import COLUMNS, octuple
from shards.notes import cut_midi, parse_midi, read_notes

pytestmark = [
    # pretty_midi imports a package that is to be replaced
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning"),
    # and wonders at recorded files whose tempo stands on a track of its own
    pytest.mark.filterwarnings("ignore:Tempo, Key or Time signature change events:RuntimeWarning"),
]

REFERENCE = Path(__file__).with_name("octuple_reference.py")
reference = runpy.run_path(str(REFERENCE))["octuple_rows"]

REAL_FILES = 200


def made_midi(seed: int) -> bytes:
    """A random file: resolution, tempos, meters, tracks, drums, and keys that a piano lacks."""
    rng = np.random.default_rng(seed)
    tpq = int(rng.choice([24, 96, 220, 480, 1024]))
    end = 60 * tpq
    file = mido.MidiFile(ticks_per_beat=tpq)
    file.tracks.append(_track(_conductor(rng, tpq, end)))
    for channel in (0, 1, 9)[: int(rng.integers(1, 4))]:
        file.tracks.append(_track(_part(rng, tpq, end, channel)))
    target = io.BytesIO()
    file.save(file=target)
    return target.getvalue()


def _conductor(rng: np.random.Generator, tpq: int, end: int) -> list[tuple[int, mido.MetaMessage]]:
    """Tempos anywhere; signatures anywhere too, so that bars before them are short."""
    first = 0 if rng.random() < 0.5 else tpq * 5
    events = []
    for tick in [first, *rng.integers(first + 1, end, rng.integers(0, 8)).tolist()]:
        microseconds = int(rng.choice([300_000, 461_538, 500_000, 666_667, 1_200_000]))
        events.append((tick, mido.MetaMessage("set_tempo", tempo=microseconds)))
    for tick in [first, *rng.integers(first + 1, end, rng.integers(0, 5)).tolist()]:
        meter = {
            "numerator": int(rng.integers(1, 13)),
            "denominator": int(rng.choice([2, 4, 8, 16])),
        }
        events.append((tick, mido.MetaMessage("time_signature", **meter)))
    return events


def _part(
    rng: np.random.Generator, tpq: int, end: int, channel: int
) -> list[tuple[int, mido.Message]]:
    """Notes on a grid of sixteenths and triplets, or off it; no key is struck while it is down."""
    events = []
    for pitch in rng.choice(np.arange(15, 115), 10, replace=False).tolist():
        tick = int(rng.integers(0, 8)) * tpq // 4
        while tick < end:
            length = max(1, int(rng.choice([1, tpq // 12, tpq // 4, tpq, 5 * tpq, 77])))
            note = {"note": pitch, "channel": channel}
            velocity = int(rng.integers(1, 128))
            events.append((tick, mido.Message("note_on", velocity=velocity, **note)))
            events.append((tick + length, mido.Message("note_off", **note)))
            tick += length + int(rng.choice([0, tpq // 6, tpq // 4, 3 * tpq, 131]))
    return events


def _track(events: list[tuple[int, mido.Message]]) -> mido.MidiTrack:
    track, before = mido.MidiTrack(), 0
    for tick, message in sorted(events, key=lambda e: (e[0], e[1].type == "note_on")):
        track.append(message.copy(time=tick - before))
        before = tick
    return track


def tokens(data: bytes, **window: float) -> list[list[int]]:
    return octuple(read_notes(data, **window).table).tolist()


def table(**columns: list[float]) -> np.ndarray:
    """Notes of the columns given; by default middle C for half a second on the first beat."""
    count = max(map(len, columns.values()))
    default = {"onset": 0, "duration": 0.5, "pitch": 60, "velocity": 64, "bar": 0, "beat": 0}
    full = [columns.get(name, [value] * count) for name, value in default.items()]
    return np.array(full, dtype=np.float64).T


@pytest.mark.parametrize("seed", range(48))
def test_tokens_equal_the_reference_on_made_files(seed):
    data = made_midi(seed)
    assert len(tokens(data)) > 30
    assert tokens(data) == reference(data)


@pytest.mark.parametrize("seed", range(24))
def test_tokens_of_a_window_equal_the_reference(seed):
    data = made_midi(seed)
    start = 1.0 + seed * 0.7371
    window = {"start_s": start, "end_s": start + 6.0}
    assert tokens(data, **window) == reference(data, **window)


def test_tokens_of_a_cut_keep_bar_and_beat_of_the_source():
    """All but the length, which the cut's finer ticks may move over a rounding edge."""
    for seed in range(8):
        data = made_midi(seed)
        cut = cut_midi(parse_midi(data), start_s=4.1, end_s=11.3)
        found = octuple(read_notes(cut.midi, beat=cut.beat).table)
        expected = np.array(reference(data, start_s=4.1, end_s=11.3))
        assert np.abs(found[:, 4] - expected[:, 4]).max() <= 1
        found[:, 4] = expected[:, 4] = 0
        assert found.tolist() == expected.tolist()


def _real_files() -> list[Path]:
    folder = os.environ.get("PERCEPIANO_DIR")
    if folder is None:
        pytest.skip("PERCEPIANO_DIR is not set: no recorded performances to compare")
    annotations = Path(folder) / "annotations.jsonl"
    if not annotations.exists():
        pytest.skip(f"{annotations} is missing")
    lines = [json.loads(line) for line in annotations.read_text("utf-8").splitlines()]
    chosen = np.random.default_rng(0).permutation(len(lines))[:REAL_FILES]
    return [annotations.parent / lines[i]["midi_path"] for i in chosen]


def test_tokens_equal_the_reference_on_recorded_performances():
    files = _real_files()
    assert len(files) == REAL_FILES
    for path in files:
        data = path.read_bytes()
        assert tokens(data) == reference(data), path.name
        window = {"start_s": 1.5, "end_s": 6.5}
        assert tokens(data, **window) == reference(data, **window), path.name


def test_the_columns_are_frozen():
    assert COLUMNS == (
        "type",
        "beat",
        "position",
        "pitch",
        "duration",
        "velocity",
        "instrument",
        "bar",
    )
    (row,) = octuple(table(pitch=[60], bar=[3], beat=[2.53], velocity=[99], duration=[0.25]))
    assert row.tolist() == [0, 2, 8, 39, 25, 99, 0, 3]


def test_positions_are_sixteenths_of_a_beat_rounded_down():
    beats = [0.0, 0.0624, 0.0625, 0.5, 0.9999, 3.1249, 3.125]
    found = octuple(table(beat=beats))
    assert found[:, 1].tolist() == [0, 0, 0, 0, 0, 3, 3]
    assert found[:, 2].tolist() == [0, 0, 1, 8, 15, 1, 2]


def test_durations_are_hundredths_from_1_to_127():
    found = octuple(table(duration=[0.0001, 0.006, 0.0149, 0.25, 1.27, 1.28, 60.0]))
    assert found[:, 4].tolist() == [1, 1, 1, 25, 127, 127, 127]


def test_pitches_are_keys_of_a_piano():
    assert octuple(table(pitch=[21, 108]))[:, 3].tolist() == [0, 87]


def test_bars_stop_at_511():
    assert octuple(table(bar=[0, 511, 512, 9999]))[:, 7].tolist() == [0, 511, 511, 511]


def test_no_notes_are_no_tokens():
    found = octuple(np.empty((0, 6)))
    assert found.shape == (0, 8)
    assert found.dtype == np.int64
