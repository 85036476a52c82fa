"""packer.inputs, packer.segments: what annotations come from, and what becomes of them."""

import csv
import json
import math
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from corpus import write_midi, write_sound

from packer.build import build
from packer.inputs import read_input, rules_for
from packer.intake import Intake
from packer.options import Options
from packer.probe import probe
from packer.segments import windows
from shards.errors import AnnotationError
from shards.faults import Kind
from shards.reader import ShardReader
from shards.schema import Annotation, Reading

MAESTRO = (
    "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"
    'Alban Berg,"Sonata Op. 1",train,2018,2018/a.midi,2018/a.wav,4.1\n'
    'Franz Schubert,"Impromptu, Op. 90",validation,2004,2004/b.midi,2004/b.wav,4\n'
    "Franz Liszt,17,test,2004,2004/c.midi,2004/c.wav,3.9\n"
)
ASAP = (
    "composer,title,folder,xml_score,midi_score,midi_performance,performance_annotations,"
    "midi_score_annotations,maestro_midi_performance,maestro_audio_performance,start,end,"
    "audio_performance\n"
    "Bach,Fugue_bwv_846,Bach/Fugue,Bach/s.musicxml,Bach/s.mid,Bach/Shi05M.mid,Bach/a.txt,"
    "Bach/b.txt,{maestro}/2006/x.midi,{maestro}/2006/x.wav,144.5,,Bach/Shi05M.wav\n"
    "Bach,Fugue_bwv_857,Bach/Fugue,Bach/s.musicxml,Bach/s.mid,Bach/Lan01M.mid,Bach/c.txt,"
    "Bach/b.txt,,,,19.4,\n"
)


def read(path: Path, **rules: object) -> Reading:
    return read_input(path, rules_for(path, **rules))


def pairs(reading: Reading, root: Path) -> list[tuple[str | None, str | None]]:
    """Audio and MIDI paths from the root."""

    def short(path: Path | None) -> str | None:
        return path and path.relative_to(root).as_posix()

    return [(short(one.audio), short(one.midi)) for one in reading.annotations]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def maestro_json(table: str) -> str:
    """The table as MAESTRO's JSON has it: an object of columns, each an object by row number."""
    rows = list(csv.DictReader(table.splitlines()))
    kinds = {"year": int, "duration": float}
    columns = {
        name: {str(n): kinds.get(name, str)(row[name]) for n, row in enumerate(rows)}
        for name in rows[0]
    }
    return json.dumps(columns)


# --- MAESTRO and ASAP


@pytest.mark.parametrize("name", ["maestro-v3.0.0.csv", "maestro-v3.0.0.json"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_maestros_metadata_is_annotations(tmp_path, name, by_folder):
    path = tmp_path / name
    path.write_text(MAESTRO if path.suffix == ".csv" else maestro_json(MAESTRO))
    reading = read(tmp_path if by_folder else path)
    assert not reading.rejected
    assert pairs(reading, tmp_path)[0] == ("2018/a.wav", "2018/a.midi")
    assert [one.key for one in reading.annotations] == ["2018-a", "2004-b", "2004-c"]
    assert reading.annotations[1].record == {
        "audio_path": "2004/b.wav",
        "midi_path": "2004/b.midi",
        "canonical_composer": "Franz Schubert",
        "canonical_title": "Impromptu, Op. 90",
        "split": "validation",
        "year": 2004,
        "source_duration": 4.0,
    }


def test_both_tables_of_maestro_say_the_same(tmp_path):
    (tmp_path / "maestro-v3.0.0.csv").write_text(MAESTRO)
    (tmp_path / "maestro-v3.0.0.json").write_text(maestro_json(MAESTRO))
    one, two = (read(tmp_path / f"maestro-v3.0.0.{end}") for end in ("csv", "json"))
    assert [a.text for a in one.annotations] == [a.text for a in two.annotations]


def test_asaps_metadata_is_annotations_some_without_audio(tmp_path):
    (tmp_path / "metadata.csv").write_text(ASAP)
    reading = read(tmp_path)
    assert not reading.rejected
    assert pairs(reading, tmp_path) == [
        ("Bach/Shi05M.wav", "Bach/Shi05M.mid"),
        (None, "Bach/Lan01M.mid"),
    ]
    one, two = (annotation.record for annotation in reading.annotations)
    assert (one["start"], one["end"], two["start"], two["end"]) == (144.5, None, None, 19.4)
    assert (one["xml_score"], two["maestro_audio_performance"]) == ("Bach/s.musicxml", None)


def test_audio_may_be_left_out(tmp_path):
    (tmp_path / "metadata.csv").write_text(ASAP)
    reading = read(tmp_path, only="midi")
    assert [audio for audio, _ in pairs(reading, tmp_path)] == [None, None]
    assert [one.key for one in reading.annotations] == ["Bach-Shi05M", "Bach-Lan01M"]
    reading = read(tmp_path, only="audio")
    assert len(reading.annotations) == 1
    assert "has no 'audio_path', and nothing else" in reading.rejected[0].reason


def test_numbers_of_a_column_are_numbers_only_if_all_are(tmp_path):
    rows = ["audio_filename,midi_filename,opus,no,bar,empty", "a,b,17,007,1.5,", "c,d,IV,1,2,"]
    (tmp_path / "maestro-v9.csv").write_text("\n".join(rows))
    records = [annotation.record for annotation in read(tmp_path).annotations]
    assert [(r["opus"], r["no"], r["bar"], r["empty"]) for r in records] == [
        ("17", "007", 1.5, None),
        ("IV", "1", 2.0, None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "audio,midi\nx,y\n", "has the columns audio, midi; MAESTRO's metadata has"),
        ("a.csv", "", "has the columns none"),
        ("a.csv", MAESTRO + "only,two\n", r"a\.csv:5: has not the 7 columns"),
        ("a.csv", MAESTRO.splitlines()[0], "holds no annotation"),
        ("a.csv", "\0", "no table of comma-separated values|has the columns"),
        ("a.json", "[1]", r"a\.json: is a JSON array; write JSON lines"),
        ("a.json", "7", "no metadata of MAESTRO"),
        ("a.json", '{"audio_filename": {"0": "a"}}', "has the columns audio_filename;"),
        ("a.json", "{", "no metadata of MAESTRO"),
        ("gone.csv", None, "no such annotation file"),
        ("gone.json", None, "no such annotation file"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path / name)


# --- folders


def test_files_of_one_name_are_pairs(tmp_path):
    names = ["one/x.wav", "one/x.MID", "y.flac", "y.midi", "notes.txt", ".hidden/z.wav", "._y.wav"]
    touch(tmp_path, *names)
    reading = read(tmp_path)
    assert not reading.rejected
    assert pairs(reading, tmp_path) == [("one/x.wav", "one/x.MID"), ("y.flac", "y.midi")]


def test_names_that_look_alike_are_pairs(tmp_path):
    touch(tmp_path, "\u00e9tude.wav", "e\u0301tude.mid", "audio/\u00e9.wav", "midi/e\u0301.mid")
    reading = read(tmp_path)
    assert not reading.rejected
    assert len(pairs(reading, tmp_path)) == 2


def test_files_in_parallel_folders_are_pairs(tmp_path):
    touch(tmp_path, "audio/p/1.wav", "midi/p/1.mid", "q/audio/1.wav", "q/midi/1.mid")
    reading = read(tmp_path)
    assert not reading.rejected
    assert pairs(reading, tmp_path) == [
        ("audio/p/1.wav", "midi/p/1.mid"),
        ("q/audio/1.wav", "q/midi/1.mid"),
    ]


def test_what_has_no_pair_or_several_is_listed(tmp_path):
    touch(tmp_path, "a.wav", "b.mid", "c.wav", "c.mid", "audio/d.wav", "m1/d.mid", "m2/d.mid")
    touch(tmp_path, "e.wav", "e.flac", "e.mid")
    reading = read(tmp_path)
    assert pairs(reading, tmp_path) == [("c.wav", "c.mid")]
    assert {rejection.kind for rejection in reading.rejected} == {Kind.UNPAIRED}
    assert {rejection.reason for rejection in reading.rejected} == {
        *(f"{name}: no MIDI of its name" for name in ("a.wav", "audio/d.wav", "e.wav", "e.flac")),
        *(f"{name}: no audio of its name" for name in ("b.mid", "m1/d.mid", "m2/d.mid", "e.mid")),
    }


@pytest.mark.parametrize("end", ["wav", "mid"])
def test_a_folder_of_one_kind_needs_no_pairs(tmp_path, end):
    touch(tmp_path, f"a.{end}", f"b.{end}")
    assert [one.key for one in read(tmp_path).annotations] == ["a", "b"]


def test_what_is_left_out_needs_no_pair(tmp_path):
    touch(tmp_path, "a.wav", "a.mid", "b.mid")
    reading = read(tmp_path, only="midi")
    assert not reading.rejected
    assert pairs(reading, tmp_path) == [(None, "a.mid"), (None, "b.mid")]


def test_a_folder_of_nothing_is_refused(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(AnnotationError, match="neither audio nor MIDI files"):
        read(tmp_path)


def test_a_folder_of_two_tables_is_refused(tmp_path):
    touch(tmp_path, "maestro-v2.0.0.csv", "maestro-v3.0.0.csv")
    with pytest.raises(AnnotationError, match=r"holds maestro-v2.0.0.csv, maestro-v3.0.0.csv; nam"):
        read(tmp_path)


def test_annotations_in_a_folder_go_before_its_files(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "annotations.jsonl").write_text('{"audio_path": "b.wav"}')
    assert [one.key for one in read(tmp_path).annotations] == ["b"]


# --- windows


@pytest.mark.parametrize(
    ("start", "end", "seconds", "hop", "expected"),
    [
        (0, 30, 10, 10, [(0, 10), (10, 20), (20, 30)]),
        (0, 25, 10, 10, [(0, 10), (10, 20), (20, 25)]),
        (0, 24.999, 10, 10, [(0, 10), (10, 20)]),
        (0, 4.9, 10, 10, []),
        (0, 5, 10, 10, [(0, 5)]),
        (3, 25, 10, 5, [(3, 13), (8, 18), (13, 23), (18, 25)]),
        (0, 20, 10, 5, [(0, 10), (5, 15), (10, 20)]),
        (0, 30, 10, 15, [(0, 10), (15, 25)]),
        (1.0004, 3, 1, 1, [(1.0, 2.0), (2.0, 3)]),
        (0, 0.3, 0.1, 0.1, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),
    ],
)
def test_windows_cover_a_recording(start, end, seconds, hop, expected):
    assert windows(start, end, seconds=seconds, hop_s=hop) == expected


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Two recordings of 4 s with MIDI, annotated whole, and a part of the second."""
    lines = []
    for number, name in enumerate("ab"):
        write_sound(tmp_path / f"{name}.wav", seconds=4, seed=number)
        write_midi(tmp_path / f"{name}.mid", onsets=[0, 1.5, 3.5])
        lines.append({"audio_path": f"{name}.wav", "midi_path": f"{name}.mid"})
        lines[-1] |= {"labels": {"tempo": number}}
    lines.append(lines[1] | {"start_time": 1.0, "end_time": 3.0, "key": "own"})
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def taken(path: Path, **intake: object) -> list[Annotation]:
    segments, rejected = probe(read(path).annotations, Intake(**intake), progress=False)
    assert not rejected
    return [segment.annotation for segment in segments]


def test_recordings_and_segments_are_cut_into_windows(recordings):
    found = taken(recordings, segment_s=1.5)
    assert [one.key for one in found] == [
        *("a-0", "a-1500", "a-3000", "b-0", "b-1500", "b-3000"),
        *("own-1000",),
    ]
    assert [(one.start_s, one.end_s) for one in found[2:4]] == [(3.0, 4.0), (0.0, 1.5)]
    assert found[-1].record == {
        "audio_path": "b.wav",
        "midi_path": "b.mid",
        "labels": {"tempo": 1},
        "start_time": 1.0,
        "end_time": 2.5,
        "key": "own",
    }


def test_windows_of_two_lines_that_meet_are_one_sample(recordings):
    """A window of a segment that is also one of the recording is no second sample."""
    segments, rejected = probe(read(recordings).annotations, Intake(segment_s=1), progress=False)
    assert len({segment.annotation.key for segment in segments}) == len(segments) == 8
    assert [(one.line, one.kind) for one in rejected] == [(3, Kind.DUPLICATE_AUDIO)] * 2


def test_a_recording_shorter_than_half_a_window_is_named(recordings):
    segments, rejected = probe(read(recordings).annotations, Intake(segment_s=9), progress=False)
    assert not segments
    assert [rejection.kind for rejection in rejected] == [Kind.SHORT] * 3
    assert rejected[0].reason == "lasts 4.000 s, less than half of 9 s"


def test_whole_recordings_are_taken_once_each(recordings):
    found = taken(recordings, whole=True)
    assert [(one.key, one.start_s, one.end_s) for one in found] == [
        ("a", 0.0, None),
        ("b", 0.0, None),
    ]
    found = taken(recordings, whole=True, segment_s=2)
    assert [one.key for one in found] == ["a-0", "a-2000", "b-0", "b-2000"]


def test_a_subset_is_that_of_the_smallest_hashes(recordings):
    everything = {one.key for one in taken(recordings, segment_s=1.5)}
    ranked = sorted(everything, key=lambda key: sha256(key.encode()).digest())
    for count in (1, 3, 7, 100):
        found = [one.key for one in taken(recordings, segment_s=1.5, subset=count)]
        assert set(found) == set(ranked[:count])
        assert len(found) == min(count, 7)


@pytest.mark.parametrize(
    ("intake", "message"),
    [
        ({"segment_s": 0}, "segment_s must be positive"),
        ({"hop_s": 1.0}, "hop_s is given without segment_s"),
        ({"segment_s": 1.0, "hop_s": 0.001}, "must be at least 0.01"),
        ({"subset": 0}, "subset must be positive"),
        ({"tolerance_s": -1}, "tolerance_s must be at least 0"),
        ({"segment_s": math.nan}, "segment_s must be positive and finite, got nan"),
        ({"segment_s": 1.0, "hop_s": math.inf}, "hop_s must be positive and finite, got inf"),
        ({"tolerance_s": math.nan}, "tolerance_s must be at least 0 and finite, got nan"),
        ({"io_threads": 0}, "io_threads must be positive"),
    ],
)
def test_an_intake_that_cannot_be_is_refused(intake, message):
    with pytest.raises(ValueError, match=message):
        Intake(**intake)


# --- all the way


def records(folder: Path) -> list[dict]:
    """The JSON of all samples, which have audio of the length it says."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with ShardReader(path) as reader:
            found += [json.loads(reader.read(row)["json"]) for row in range(len(reader))]
    return found


def test_maestro_becomes_its_own_splits(tmp_path):
    (tmp_path / "maestro-v3.0.0.csv").write_text(MAESTRO)
    for number, name in enumerate(("2018/a", "2004/b", "2004/c")):
        write_sound(tmp_path / f"{name}.wav", seconds=4, seed=number)
        write_midi(tmp_path / f"{name}.midi", onsets=[0, 3.5])
    out = tmp_path / "out"
    options = Options(sample_rate=8000, split_by="split")
    intake = Intake(segment_s=2)
    build(tmp_path, str(out), options=options, intake=intake, workers=0, progress=False)
    found = {split: records(out / split) for split in ("train", "val", "test")}
    assert Counter({split: len(rows) for split, rows in found.items()}) == dict.fromkeys(found, 2)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "test", "train", "val"]
    assert {row["year"] for row in found["val"]} == {2004}
    assert sorted(row["start_time"] for row in found["val"]) == [0.0, 2.0]
    assert {row["frames"] for row in found["val"]} == {16000}
