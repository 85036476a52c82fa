"""benchmarks/percepiano.py: no fold knows of another, and the linear model is one."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symusic import ControlChange, Note, Score, Tempo, Track

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from folds import FOLDS, distinct, splits
from notes import NAMES, features, ridge

PERFORMERS = 7


def lines() -> list[dict[str, Any]]:
    """One piece of 40 excerpts, nine of six; performers and numbers as in the data set."""
    excerpts = [("Long", n) for n in range(40)] + [(f"p{p}", n) for p in range(9) for n in range(6)]
    return [
        {"midi_path": f"midi/{piece}_8bars_{performer}_{n}.mid", "piece": piece}
        for piece, n in excerpts
        for performer in range(PERFORMERS)
    ]


def digests(rows: list[dict[str, Any]]) -> list[str]:
    return [row["midi_path"] for row in rows]


@pytest.mark.parametrize("kind", ["excerpt", "piece"])
def test_no_group_is_in_two_splits_and_every_performance_is_tested_once(kind: Any):
    rows = distinct(lines(), digests(lines()))
    tested: Counter[str] = Counter()
    for fold in range(FOLDS):
        of = splits(rows, kind, fold)
        groups = {split: {row[kind] for row, s in zip(rows, of, strict=True) if s == split}
                  for split in ("train", "val", "test")}  # fmt: skip
        assert all(groups.values())
        assert len(set.union(*groups.values())) == sum(map(len, groups.values()))
        assert Counter(of)["val"] < 0.25 * len(rows)
        tested.update(row["midi_path"] for row, s in zip(rows, of, strict=True) if s == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == len(rows)


def test_folds_by_excerpt_are_of_one_size():
    rows = distinct(lines(), digests(lines()))
    sizes = [Counter(splits(rows, "excerpt", fold))["test"] for fold in range(FOLDS)]
    assert max(sizes) - min(sizes) <= PERFORMERS


def test_a_performance_under_two_names_is_kept_once_and_its_excerpts_are_one():
    rows = lines()
    same = digests(rows)
    same[PERFORMERS] = same[0]  # excerpts 1 and 0 of Long
    kept = distinct(rows, same)
    assert len(kept) == len(rows) - 1
    assert rows[PERFORMERS]["midi_path"] not in {row["midi_path"] for row in kept}
    excerpts = {row["excerpt"] for row in kept[: 2 * PERFORMERS - 1]}
    assert excerpts == {"Long_8bars_0"}


def midi(path: Path, *, gap: float, length: float, velocities: list[int], down: float) -> Path:
    score: Any = Score(480, "tick")
    score.tempos.append(Tempo(0, 60))
    track = Track()
    for n, velocity in enumerate(velocities):
        track.notes.append(Note(int(n * gap * 480), int(length * 480), 60 + n, velocity))
    for time, value in ((0, 127), (int(down * 480), 0)):
        track.controls.append(ControlChange(time, 64, value))
    score.tracks.append(track)
    score.dump_midi(path)
    return path


def test_features_are_what_their_names_say(tmp_path: Path):
    path = midi(tmp_path / "x.mid", gap=0.5, length=0.25, velocities=[40, 60, 80, 60, 60], down=1.0)
    found = dict(zip(NAMES, features(path), strict=True))
    assert np.exp(found["tempo"]) == pytest.approx(0.5)
    assert np.exp(found["density"]) == pytest.approx(5 / 2)
    assert found["velocity"] == 60
    assert found["velocity spread"] == pytest.approx(np.std([40, 60, 80, 60, 60]))
    assert found["pedal share"] == pytest.approx(1.0 / 2.25, abs=0.01)
    assert np.exp(found["articulation ratio"]) == pytest.approx(0.5)


def test_ridge_finds_what_is_linear_and_shrinks_to_the_mean():
    rng = np.random.default_rng(0)
    x, new = rng.normal(3, 2, (50, 4)), rng.normal(3, 2, (9, 4))
    weights = rng.normal(size=(4, 2))
    y = x @ weights + 7
    np.testing.assert_allclose(ridge(x, y, new, penalty=1e-9), new @ weights + 7, atol=1e-6)
    shrunk = ridge(x, y, new, penalty=1e12)
    np.testing.assert_allclose(shrunk, np.broadcast_to(y.mean(axis=0), shrunk.shape), atol=1e-6)
