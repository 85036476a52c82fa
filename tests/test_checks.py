"""Every fault of annotations and their files is found: line, reason, kind and count."""

import json
import os
import re
import threading
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import soundfile
from corpus import write_midi, write_sound

from packer.__main__ import main
from packer.audio import probe_audio
from packer.inputs import read_input, rules_for
from packer.inspection import look_at_midi, read_ahead, same_content
from packer.intake import Intake
from packer.probe import probe
from packer.report import by_kind
from shards.faults import REMEDIES, Kind, Rejection
from shards.notes import read_notes

SECONDS = 4.0
GOOD = {"audio_path": "good.wav", "midi_path": "good.mid", "labels": {"tempo": 50}, "n": 1}

# name: the line (or what is changed in a good one), kind, reason
FAULTS: dict[str, tuple[object, Kind, str]] = {
    "cut off JSON": ('{"audio_path": ', Kind.JSON, "not JSON: Expecting value at col"),
    "single quotes": ("{'audio_path': 'a'}", Kind.JSON, "not JSON: Expecting property name"),
    "101 levels": (
        '{"audio_path": "good.wav", "deep": ' + 100 * "[" + 100 * "]" + "}",
        Kind.JSON,
        "nested more than 100 deep",
    ),
    "a list": ('["good.wav"]', Kind.JSON, "not a JSON object but list"),
    "half a character": (r'{"audio_path": "\ud800.wav"}', Kind.JSON, "half of a surrogate pair"),
    "a huge number": ({"n": 10**30}, Kind.JSON, "out of range: an integer has 64 bits"),
    "a field of the packer's": ({"frames": 1}, Kind.RESERVED, "'frames' is computed by the packer"),
    "no path": ({"audio_path": None, "midi_path": None}, Kind.NO_PATH, "neither 'audio_path' nor"),
    "a path of numbers": ({"audio_path": 7}, Kind.NO_PATH, "'audio_path' must be a path, got 7"),
    "a negative start": ({"start_time": -1}, Kind.TIME, "'start_time' must not be negative"),
    "a start in words": ({"start_time": "0:10"}, Kind.TIME, "must be a number of seconds"),
    "end before start": ({"start_time": 3, "end_time": 2}, Kind.TIME, "is not after 'start_time'"),
    "labels as a list": ({"labels": [1]}, Kind.LABEL, "'labels' must be an object of numbers"),
    "a label in words": ({"labels": {"tempo": "fast"}}, Kind.LABEL, "must be a number or null"),
    "a label of NaN": ({"labels": {"tempo": float("nan")}}, Kind.LABEL, "must be finite, got nan"),
    "an infinite label": ({"labels": {"tempo": float("-inf")}}, Kind.LABEL, "finite, got -inf"),
    "a label too high": (
        {"labels": {"tempo": 101}},
        Kind.LABEL_RANGE,
        "label 'tempo' is 101, outside 0 to 100",
    ),
    "a key of others": ({"key": "a/b"}, Kind.KEY, "'key' must be 1 to 88 letters"),
    "a key twice": ({"key": "first"}, Kind.DUPLICATE_KEY, "key 'first' is that of line 1 too"),
    "another type": ({"n": "1"}, Kind.MIXED_TYPES, "'n' is of type number on line 1 but string"),
    "no audio": ({"audio_path": None}, Kind.NO_AUDIO, "has no audio_path, while line 1 has one"),
    "missing audio": ({"audio_path": "gone.wav"}, Kind.MISSING_AUDIO, "gone.wav: no such file"),
    "empty audio": ({"audio_path": "empty.wav"}, Kind.UNREADABLE_AUDIO, "empty.wav: is empty"),
    "audio of text": ({"audio_path": "text.wav"}, Kind.UNREADABLE_AUDIO, "not a readable rec"),
    "audio of no frames": ({"audio_path": "none.wav"}, Kind.UNREADABLE_AUDIO, "holds no audio"),
    "a copy of audio": (
        {"audio_path": "copy.wav", "start_time": None},
        Kind.DUPLICATE_AUDIO,
        "copy.wav: the audio is that of line 1 too, key 'first'",
    ),
    "end past the end": (
        {"end_time": 60},
        Kind.OUTSIDE,
        "end_time 60.0 lies past the end of .*good.wav, 4.000 s",
    ),
    "start past the end": ({"start_time": 4}, Kind.OUTSIDE, "start_time 4.0 lies past the end of"),
    "missing MIDI": ({"midi_path": "gone.mid"}, Kind.MISSING_MIDI, "gone.mid: no such MIDI file"),
    "MIDI of text": ({"midi_path": "text.mid"}, Kind.UNREADABLE_MIDI, "not a readable MIDI file"),
    "MIDI cut off": ({"midi_path": "cut.mid"}, Kind.UNREADABLE_MIDI, "cut off in track 1 of 1"),
    "MIDI without notes": (
        {"midi_path": "none.mid"},
        Kind.SILENT_MIDI,
        r"none.mid: MIDI without notes in \[\S+, 4.000\) s",
    ),
    "no notes there": ({"start_time": 1.3, "end_time": 1.9}, Kind.SILENT_MIDI, "without notes in"),
    "longer MIDI": (
        {"audio_path": "short.wav", "start_time": None},
        Kind.LENGTHS,
        "short.wav lasts 2.000 s and the notes of .*good.mid 3.750 s",
    ),
    "longer audio": (
        {"audio_path": "long.wav", "start_time": None},
        Kind.LENGTHS,
        "long.wav lasts 20.000 s and the notes of .*good.mid 3.750 s",
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The files that the lines above speak of."""
    folder = tmp_path_factory.mktemp("files")
    write_sound(folder / "good.wav", seconds=SECONDS)
    write_midi(folder / "good.mid", onsets=np.array([0, 1.0, 2.0, 3.0, 3.5]))
    write_sound(folder / "short.wav", seconds=2.0, seed=1)
    write_sound(folder / "long.wav", seconds=20.0, seed=2)
    write_midi(folder / "none.mid", onsets=np.array([]))
    soundfile.write(folder / "none.wav", np.zeros(0), 8000)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no sound at all")
    (folder / "text.mid").write_text("no music at all")
    (folder / "copy.wav").write_bytes((folder / "good.wav").read_bytes())
    (folder / "cut.mid").write_bytes((folder / "good.mid").read_bytes()[:-20])
    return folder


def text_of(change: object, number: int) -> str:
    """A line with one fault; where it starts is its own, so that no two are one sample."""
    if isinstance(change, str):
        return change
    line = GOOD | {"key": f"k{number}", "start_time": number / 1000} | change
    return json.dumps({name: value for name, value in line.items() if value is not None})


def annotate(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def faults_of(path: Path, **intake: object) -> list[Rejection]:
    reading = read_input(path, rules_for(path, label_range=(0, 100)))
    _, rejected = probe(reading.annotations, Intake(**intake), progress=False)
    return sorted([*reading.rejected, *rejected], key=lambda rejection: rejection.line)


FIRST = json.dumps(GOOD | {"key": "first"})


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_named(files, name):
    change, kind, reason = FAULTS[name]
    path = annotate(files, name.replace(" ", "-"), [FIRST, "", text_of(change, 1)])
    (rejection,) = faults_of(path)
    assert (rejection.line, rejection.kind) == (3, kind)
    assert re.search(reason, rejection.reason)


def test_all_faults_at_once_are_named_and_counted(files):
    lines = [text_of(change, number) for number, (change, _, _) in enumerate(FAULTS.values(), 1)]
    good = [text_of({}, 500 + number) for number in range(3)]
    path = annotate(files, "all", [FIRST, *lines, *good])
    rejected = faults_of(path)
    assert [rejection.line for rejection in rejected] == list(range(2, 2 + len(FAULTS)))
    for rejection, (name, (_, kind, reason)) in zip(rejected, FAULTS.items(), strict=True):
        assert rejection.kind == kind, name
        assert re.search(reason, rejection.reason), name
    counts = Counter(kind for _, kind, _ in FAULTS.values())
    assert {line.partition(":")[0] for line in by_kind(rejected)} == {
        f"{kind} ({count})" for kind, count in counts.items()
    }


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["\u00e9tude.wav", "\u00e9tude.mid", "\u00e9t\u00e9/x.wav"])
def test_a_name_in_another_normal_form_is_told(tmp_path, name, form):
    there = tmp_path / normalize(form, name)
    there.parent.mkdir(exist_ok=True)
    there.touch()
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    field = "midi_path" if name.endswith("mid") else "audio_path"
    path = annotate(tmp_path, "a", [json.dumps({field: normalize(other, name)})])
    (rejection,) = faults_of(path)
    assert rejection.kind in (Kind.MISSING_AUDIO, Kind.MISSING_MIDI)
    assert f"looks the same, in Unicode's form {form}" in rejection.reason


@pytest.mark.parametrize("field", ["audio_path", "midi_path"])
@pytest.mark.parametrize(
    ("there", "written", "told"),
    [
        ("a/x.WAV", "a/x.wav", "but x.WAV is there: write the path with .WAV, or rename the file"),
        ("a/x.mid", "a/x.MID", "but x.mid is there: write the path with .mid"),
        ("a/x.wav", "a\\x.wav", "has backslashes: write '/' between folders and file"),
    ],
)
def test_a_name_as_of_another_system_is_told(tmp_path, there, written, told, field):
    (tmp_path / "a").mkdir()
    (tmp_path / there).touch()
    (rejection,) = faults_of(annotate(tmp_path, "a", [json.dumps({field: written})]))
    assert rejection.kind in (Kind.MISSING_AUDIO, Kind.MISSING_MIDI)
    assert told in rejection.reason


def test_every_kind_of_fault_has_a_remedy():
    assert REMEDIES.keys() == set(Kind)


def test_the_command_names_lines_kinds_and_remedies(files, tmp_path, caplog, capsys):
    names = ("missing audio", "missing MIDI", "a list")
    lines = [text_of(FAULTS[name][0], number) for number, name in enumerate(names)]
    good = [text_of({}, 500 + number) for number in range(7)]
    path = annotate(files, "few", [FIRST, *lines, *good])
    arguments = ["build", str(path), "--out", str(tmp_path / "out"), "--workers", "0"]
    arguments += ["--sample-rate", "8000"]
    assert main(arguments) == 1
    assert "3 of 11 annotations cannot be packed" in caplog.text
    assert "few.jsonl:2: " in caplog.text
    assert f"audio missing (1): {REMEDIES[Kind.MISSING_AUDIO]}" in caplog.text
    assert "leave them out with --max-rejected 28%" in caplog.text
    caplog.clear()
    assert main([*arguments, "--max-rejected", "28%"]) == 0
    assert "8 samples" in capsys.readouterr().out
    assert "3 of 11 left out" in caplog.text
    assert "not a JSON object (1)" in caplog.text
    told = [json.loads(row) for row in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["kind"]) for row in told] == [
        (2, "audio missing"),
        (3, "MIDI missing"),
        (4, "not a JSON object"),
    ]


def test_a_field_of_two_types_is_never_left_out(files, tmp_path, caplog):
    good = [text_of({}, 500 + number) for number in range(9)]
    path = annotate(files, "mixed", [FIRST, text_of({"n": "1"}, 1), *good])
    arguments = ["build", str(path), "--out", str(tmp_path / "out"), "--max-rejected", "50%"]
    assert main(arguments) == 1
    assert "'n' is of type number on line 1 but string on line 2" in caplog.text
    assert "--max-rejected" not in caplog.text


# --- lengths


def lengths(folder: Path, audio_s: float, notes_s: float, **intake: object) -> list[Rejection]:
    write_sound(folder / "x.wav", seconds=audio_s)
    write_midi(folder / "x.mid", onsets=np.array([0.0, notes_s - 0.25]))
    line = {"audio_path": "x.wav", "midi_path": "x.mid"} | intake.pop("line", {})
    return faults_of(annotate(folder, "lengths", [json.dumps(line)]), **intake)


@pytest.mark.parametrize(
    ("audio_s", "notes_s", "tolerance_s", "fits"),
    [
        (10, 10.4, 0.5, True),
        (10, 10.6, 0.5, False),
        (10, 10.6, 0.7, True),
        (10, 10.1, 0.0, False),
        (10, 7.1, 0.5, True),  # a tail of 2 s and a twentieth
        (10, 6.9, 0.5, False),
        (10, 6.9, 0.7, True),
    ],
)
def test_midi_and_audio_have_one_length(tmp_path, audio_s, notes_s, tolerance_s, fits):
    rejected = lengths(tmp_path, audio_s, notes_s, tolerance_s=tolerance_s)
    assert [rejection.kind for rejection in rejected] == ([] if fits else [Kind.LENGTHS])


def test_segments_of_a_pair_need_no_one_length(tmp_path):
    assert not lengths(tmp_path, 4, 9, line={"end_time": 3.0})
    assert lengths(tmp_path, 4, 9, segment_s=2.0)[0].kind == Kind.LENGTHS


def test_silence_within_a_recording_that_is_cut_is_no_fault(tmp_path):
    assert not lengths(tmp_path, 8, 8, segment_s=2.0)  # notes at the start and at the end only


# --- copies


def test_a_recording_under_two_names_is_found_by_its_content(tmp_path):
    """Same size and length alone are no copy, nor is another part of a copy."""
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        write_sound(tmp_path / f"{name}.wav", seconds=2, seed=seed)
    windows = [("a", 0, 1), ("b", 0, 1), ("c", 1, 2), ("c", 0, 1), ("a", 0.5, 1.5)]
    lines = [
        json.dumps({"audio_path": f"{name}.wav", "start_time": start, "end_time": end})
        for name, start, end in windows
    ]
    (rejection,) = faults_of(annotate(tmp_path, "copies", lines))
    assert (rejection.line, rejection.kind) == (4, Kind.DUPLICATE_AUDIO)
    assert rejection.reason.endswith("c.wav: the audio is that of line 1 too, key 'a-0'")


def test_files_alike_in_the_middle_only_are_no_copies(tmp_path):
    sound = np.zeros(200_000, dtype=np.int16)
    sound[:100] = 1
    soundfile.write(tmp_path / "a.wav", sound, 8000)
    soundfile.write(tmp_path / "b.wav", sound[::-1], 8000)
    lines = [json.dumps({"audio_path": f"{name}.wav"}) for name in "ab"]
    assert not faults_of(annotate(tmp_path, "copies", lines))


def test_only_files_that_may_be_copies_are_opened(tmp_path, monkeypatch):
    infos = {}
    for name, seconds, seed in (("a", 1, 0), ("b", 2, 1), ("c", 2, 2), ("d", 2, 1)):
        path = tmp_path / f"{name}.wav"
        write_sound(path, seconds=seconds, seed=seed)
        infos[path] = probe_audio(path)
    opened: list[str] = []
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *mode: opened.append(path.stem) or real(path, *mode)
    )
    copies = same_content(infos, threads=1, progress=False)
    assert copies == {tmp_path / "d.wav": tmp_path / "b.wav"}
    assert sorted(opened) == ["b", "b", "c", "d", "d"]


# --- how files are looked at


def test_files_are_opened_many_at_a_time_and_each_once(tmp_path):
    """By path: a lock-step of as many threads as are asked for comes to pass."""
    barrier = threading.Barrier(5, timeout=30)
    seen: list[Path] = []

    def look(path: Path) -> int:
        seen.append(path)
        return barrier.wait()

    paths = [tmp_path / str(number) for number in range(10)]
    found = read_ahead([*paths, None, *paths], look, threads=5, label="", progress=False)
    assert list(found) == paths
    assert sorted(seen) == sorted(paths)


def test_no_folder_of_sources_is_listed(files, monkeypatch):
    path = annotate(files, "listing", [FIRST])

    def refuse(*arguments: object) -> None:
        raise AssertionError("listed a folder")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    assert not faults_of(path)


def test_stretches_of_sound_say_the_same_as_the_notes(tmp_path):
    rng = np.random.default_rng(0)
    write_midi(tmp_path / "x.mid", onsets=np.sort(rng.uniform(0, 20, 30)))
    info, data = look_at_midi(tmp_path / "x.mid"), (tmp_path / "x.mid").read_bytes()
    found = []
    for start in np.arange(0, 21, 0.13):
        end = start + rng.uniform(0.01, 0.6)
        found.append(info.sounds(start, end))
        assert found[-1] == bool(len(read_notes(data, start_s=start, end_s=end).table))
    assert 20 < sum(found) < len(found) - 20
