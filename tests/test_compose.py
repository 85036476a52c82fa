"""packer.compose and packer.ratings: pieces are music, and ratings answer to their flaws."""

import numpy as np
import pytest
from symusic.core import ControlChangeTick, NoteTick, ScoreTick, TempoTick, TrackTick

from packer.compose import LOWEST, METERS, Key, compose_piece
from packer.ratings import DIMENSIONS, rate


def piece(seed: int = 0, *, seconds: float = 20.0) -> ScoreTick:
    return compose_piece(np.random.default_rng(seed), seconds=seconds)


def notes(score: ScoreTick) -> dict[str, np.ndarray]:
    return score.tracks[0].notes.numpy()


def clean(*, velocity: int = 70, ticks: int = 240) -> ScoreTick:
    """Ten seconds of C major in eighths at 120, without a flaw and without expression."""
    score = ScoreTick(480)
    score.tempos.append(TempoTick(0, qpm=120.0))
    track = TrackTick("piano", 0, False)
    for i in range(40):
        pitch = (60, 62, 64, 65, 67, 69, 71)[i % 7]
        track.notes.append(NoteTick(240 * i, ticks, pitch, velocity))
    score.tracks.append(track)
    return score


def ratings(score: ScoreTick) -> dict[str, float]:
    return rate(score, start_s=0.0, end_s=10.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_piece_lasts_and_is_playable(seed):
    score = piece(seed)
    pitch = notes(score)["pitch"]
    assert score.to("second").end() > 19.0  # the last bar begins before its end
    assert pitch.min() >= 21
    assert pitch.max() <= 108
    assert len(pitch) > 40
    assert notes(score)["velocity"].min() > 0


def test_a_piece_breathes():
    score = piece()
    assert len({tempo.mspq for tempo in score.tempos}) > 3
    assert {control.number for control in score.tracks[0].controls} == {64}


def test_no_key_is_struck_while_it_is_down():
    """Else the notes read back from the file are others than those written."""
    score = piece(1)
    again = ScoreTick.from_midi(score.dumps_midi())
    assert [notes(again)[k].tolist() for k in ("time", "duration", "pitch", "velocity")] == [
        notes(score)[k].tolist() for k in ("time", "duration", "pitch", "velocity")
    ]


def test_the_same_seed_gives_the_same_piece():
    assert piece(7).dumps_midi() == piece(7).dumps_midi()
    assert piece(7).dumps_midi() != piece(8).dumps_midi()


def test_meters_change_within_some_pieces():
    signatures = [len(piece(seed, seconds=60).time_signatures) for seed in range(10)]
    assert max(signatures) > 1


@pytest.mark.parametrize("meter", METERS, ids=lambda m: f"{m.numerator}/{m.denominator}")
def test_rhythms_and_patterns_fill_their_bar(meter):
    assert {sum(rhythm) for rhythm in meter.rhythms} == {meter.sixteenths}
    for pattern in meter.patterns:
        start, length, _ = pattern[-1]
        assert start + length == meter.sixteenths


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize("minor", [False, True])
def test_the_hands_stay_apart(tonic, minor):
    assert Key(tonic, minor).pitch(LOWEST, degree=0) > 60


def test_a_piece_needs_time():
    with pytest.raises(ValueError, match="seconds must be above 0"):
        piece(seconds=0)


def test_ratings_lie_within_bounds_and_differ_between_windows():
    scores = [piece(seed, seconds=40.0) for seed in range(8)]
    rows = [
        list(rate(score, start_s=start, end_s=start + 10.0).values())
        for score in scores
        for start in (0.0, 10.0, 20.0, 30.0)
    ]
    table = np.array(rows)
    assert table.min() >= 0
    assert table.max() <= 100
    assert (table.std(axis=0) >= 8).all()
    assert (table.reshape(8, 4, 6).std(axis=1).mean(axis=0) > 4).all()


def test_a_clean_scale_is_accurate_precise_even_and_legato():
    expected = dict(zip(DIMENSIONS, (100.0, 100.0, 100.0, 0.0, 100.0, 0.0), strict=True))
    assert ratings(clean()) == expected


def test_wrong_notes_lower_accuracy_alone():
    score = clean()
    for note in list(score.tracks[0].notes)[:28:7]:
        note.pitch += 1
    assert ratings(score) == ratings(clean()) | {"note_accuracy": 50.0}  # 4 of 40 out of the key


def test_jitter_lowers_precision():
    score = clean()
    for i, note in enumerate(score.tracks[0].notes):
        note.time += 19 * (i % 2)  # 19 ticks of 1.04 ms, every other note
    assert ratings(score)["rhythmic_precision"] == pytest.approx(100 - 9.9 / 40 * 100, abs=0.2)


def test_jitter_is_measured_in_seconds():
    """The same ticks are a larger deviation where the tempo is slow."""
    fast, slow = clean(), clean()
    slow.tempos[0].qpm = 60.0
    for score in (fast, slow):
        for note in score.tracks[0].notes:
            note.time += 12
    assert ratings(slow)["rhythmic_precision"] < ratings(fast)["rhythmic_precision"] < 100


def test_uneven_touch_lowers_tone_quality():
    score = clean()
    for i, note in enumerate(score.tracks[0].notes):
        note.velocity += 9 * (i % 2)
    assert ratings(score)["tone_quality"] == 50.0


def test_a_crescendo_raises_dynamics():
    score = clean(velocity=40)
    for i, note in enumerate(score.tracks[0].notes):
        note.velocity += i
    assert ratings(score)["dynamics_control"] > 50
    assert ratings(score)["tone_quality"] > 90


def test_staccato_lowers_articulation():
    assert ratings(clean(ticks=60))["articulation"] == 25.0


def test_pedaling_is_the_share_of_time_with_the_pedal_down():
    score = clean()
    score.tracks[0].controls.append(ControlChangeTick(960, 64, 127))  # 1 s
    score.tracks[0].controls.append(ControlChangeTick(960 * 4, 64, 0))  # 4 s
    assert ratings(score)["pedaling"] == 30.0
    assert rate(score, start_s=2.0, end_s=3.0)["pedaling"] == 100.0
    assert rate(score, start_s=5.0, end_s=6.0)["pedaling"] == 0.0


def test_an_empty_window_shows_nothing():
    assert rate(ScoreTick(480), start_s=0.0, end_s=1.0) == dict.fromkeys(DIMENSIONS, 0.0)
    with pytest.raises(ValueError, match="window is empty"):
        rate(clean(), start_s=1.0, end_s=1.0)
