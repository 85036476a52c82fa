"""packer.corpus: a made corpus is complete, consistent, and the same wherever it is made."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from symusic.core import KeySignatureTick, ScoreTick

from packer.corpus import tonality, windows, write_corpus
from packer.ratings import DIMENSIONS, rate

OPTIONS = {"pieces": 3, "piece_seconds": 9.0, "clip_seconds": 4.0, "progress": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), workers=0, **OPTIONS).parent


def lines(folder: Path) -> list[dict]:
    return [json.loads(row) for row in (folder / "annotations.jsonl").read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_line_for_each_window_and_nothing_else_in_the_folder(corpus):
    assert [(x["piece"], x["start_time"], x["end_time"]) for x in lines(corpus)] == [
        (f"piece-00{n}", start, start + 4.0) for n in range(3) for start in (0.0, 4.0)
    ]
    names = [f"{kind}/piece-00{n}" for n in range(3) for kind in ("midi", "audio")]
    assert {name.partition(".")[0] for name in tree(corpus)} == {*names, "annotations"}


def test_another_number_of_workers_gives_the_same_bytes(corpus, tmp_path):
    write_corpus(tmp_path, workers=2, **OPTIONS)
    assert tree(tmp_path) == tree(corpus)


def test_another_seed_gives_other_pieces(corpus, tmp_path):
    write_corpus(tmp_path, workers=0, seed=1, **OPTIONS | {"pieces": 1})
    assert tree(tmp_path)["midi/piece-000.mid"] != tree(corpus)["midi/piece-000.mid"]


def test_every_window_lies_inside_its_recording(corpus):
    for line in lines(corpus):
        info = soundfile.info(corpus / line["audio_path"])
        assert (info.samplerate, info.channels, info.subtype) == (44100, 2, "PCM_16")
        assert line["end_time"] * info.samplerate <= info.frames


def test_every_window_is_heard(corpus):
    for line in lines(corpus):
        start, stop = (round(line[k] * 44100) for k in ("start_time", "end_time"))
        sound, _ = soundfile.read(corpus / line["audio_path"], start=start, stop=stop)
        assert np.sqrt((sound**2).mean()) > 0.001
        assert np.abs(sound).max() < 1


def test_labels_follow_from_the_stored_midi(corpus):
    for line in lines(corpus):
        score = ScoreTick.from_midi((corpus / line["midi_path"]).read_bytes())
        assert line["labels"] == rate(score, start_s=line["start_time"], end_s=line["end_time"])
        assert tuple(line["labels"]) == DIMENSIONS


def test_windows_end_by_the_end():
    assert windows(9.0, clip_seconds=4.0) == [(0.0, 4.0), (4.0, 8.0)]
    assert len(windows(0.3, clip_seconds=0.1)) == 3


@pytest.mark.parametrize(
    ("sharps", "minor", "name"), [(0, 0, "C major"), (1, 1, "E minor"), (-3, 1, "C minor")]
)
def test_tonality_is_named(sharps, minor, name):
    score = ScoreTick(480)
    score.key_signatures.append(KeySignatureTick(0, sharps, minor))
    assert tonality(ScoreTick.from_midi(score.dumps_midi())) == name


@pytest.mark.parametrize(
    "bad", [{"pieces": 0}, {"clip_seconds": 10.0}, {"seed": -1}, {"piece_seconds": float("inf")}]
)
def test_bad_arguments_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="must be"):
        write_corpus(tmp_path / "new", **OPTIONS | bad)
    assert not (tmp_path / "new").exists()
