"""shards.schema and shards.records: every fault of a line is named, every sample gets its key."""

import json
import re
from pathlib import Path

import pytest

from shards.errors import AnnotationError
from shards.faults import FaultError, Kind, Rejection
from shards.line import MAX_KEY_BYTES
from shards.records import COMPUTED, Layout, Unified
from shards.schema import Annotation, Reading, Rules, read_annotations, recut, with_distinct_keys

GOOD = '{"audio_path": "a.wav"}'


def read_all(folder: Path, *lines: object, **rules: object) -> Reading:
    """What is read of lines, which are text or else made JSON."""
    path = folder / "annotations.jsonl"
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return read_annotations(path, Rules(**{"root": folder} | rules))


def read(folder: Path, *lines: object, **rules: object) -> tuple[list[Annotation], list[Rejection]]:
    reading = read_all(folder, *lines, **rules)
    return reading.annotations, reading.rejected


def keys(folder: Path, *lines: object, **options: object) -> list[str]:
    annotations, rejected = read(folder, *lines, **options)
    assert not rejected
    return [annotation.key for annotation in annotations]


# --- a good line


def test_a_line_is_read_whole(tmp_path):
    line = {
        "audio_path": "audio/x.wav",
        "midi_path": "/data/x.mid",
        "start_time": 1,
        "end_time": 10.5,
        "labels": {"tempo": 1, "touch": None, "space": 0.5},
        "performer": {"name": "Clara"},
    }
    (annotation,), rejected = read(tmp_path, line)
    assert not rejected
    assert annotation == Annotation(
        line=1,
        key="audio-x-1000",
        source="audio/x.wav",
        own_key=False,
        audio=tmp_path / "audio/x.wav",
        midi=Path("/data/x.mid"),
        start_s=1.0,
        end_s=10.5,
        text=json.dumps(line).encode(),
    )
    assert annotation.record == line
    assert repr(annotation.labels) == "{'tempo': 1.0, 'touch': None, 'space': 0.5}"


def test_a_path_is_all_that_is_needed(tmp_path):
    (audio, midi), rejected = read(tmp_path, {"audio_path": "a.wav"}, {"midi_path": "b.mid"})
    assert not rejected
    assert (audio.audio, audio.midi, audio.start_s, audio.end_s) == (
        tmp_path / "a.wav",
        None,
        0.0,
        None,
    )
    assert (midi.audio, midi.midi, midi.labels) == (None, tmp_path / "b.mid", {})


def test_null_says_that_something_is_missing(tmp_path):
    names = ("midi_path", "start_time", "end_time", "labels", "key", "remark")
    line = {"audio_path": "a.wav"} | dict.fromkeys(names)
    (annotation,), rejected = read(tmp_path, line)
    assert not rejected
    assert (annotation.key, annotation.start_s, annotation.end_s) == ("a", 0.0, None)


def test_byte_order_mark_blank_lines_and_crlf_are_no_fault(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf\r\n{"audio_path": "a.wav"}\r\n  \t\r\n\r\n{"audio_path": "b.wav"}'
    )
    reading = read_annotations(path)
    annotations, rejected = reading.annotations, reading.rejected
    assert [(a.line, a.key) for a in annotations] == [(2, "a"), (5, "b")]
    assert not rejected


def test_line_separators_of_unicode_end_no_line(tmp_path):
    line = '{"audio_path": "a.wav", "remark": "one\u2028two\u0085three"}'
    (annotation,), rejected = read(tmp_path, line)
    assert not rejected
    assert annotation.record["remark"] == "one\u2028two\u0085three"


def test_label_order_is_first_appearance(tmp_path):
    reading = read_all(
        tmp_path,
        {"audio_path": "a.wav", "labels": {"z": 1, "b": 2}},
        {"audio_path": "b.wav", "labels": {"a": 1, "z": None}},
    )
    assert reading.label_names == ("z", "b", "a")


# --- paths


def test_paths_start_at_the_root(tmp_path):
    (annotation,), _ = read(tmp_path, {"audio_path": "a/b.wav"}, root=Path("/data"))
    assert annotation.audio == Path("/data/a/b.wav")
    assert annotation.key == "a-b"


def test_a_prefix_of_another_machine_is_replaced(tmp_path):
    rewrite = {"/content/drive/MyDrive": "/data", "C:/music": "local"}
    annotations, _ = read(
        tmp_path,
        {"audio_path": "/content/drive/MyDrive/a.wav", "midi_path": "C:/music/a.mid"},
        {"audio_path": "other/content/drive/MyDrive/b.wav"},
        rewrite=rewrite,
    )
    assert (annotations[0].audio, annotations[0].midi) == (
        Path("/data/a.wav"),
        tmp_path / "local/a.mid",
    )
    assert annotations[1].audio == tmp_path / "other/content/drive/MyDrive/b.wav"


def test_the_key_does_not_depend_on_where_the_root_lies(tmp_path):
    one = keys(tmp_path, {"audio_path": "/old/set/a/b.wav"}, root=Path("/old/set"))
    rewrite = {"/old": "/new"}
    two = keys(tmp_path, {"audio_path": "/old/set/a/b.wav"}, root=Path("/new/set"), rewrite=rewrite)
    assert one == two == ["a-b"]


# --- keys


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ({"audio_path": "a.wav", "key": "Own_key-1"}, "Own_key-1"),
        ({"audio_path": "a.wav", "key": "k" * MAX_KEY_BYTES}, "k" * MAX_KEY_BYTES),
        ({"audio_path": "audio/x.y.wav"}, "audio-x-y"),
        ({"audio_path": "a.wav", "midi_path": "b.mid"}, "a"),
        ({"midi_path": "b.mid"}, "b"),
        ({"audio_path": "a.wav", "start_time": 0}, "a-0"),
        ({"audio_path": "a.wav", "start_time": 12.3456}, "a-12346"),
        ({"audio_path": "Op. 10 (No. 3)/take #1.wav"}, "Op--10--No--3--take--1"),
        ({"audio_path": "Frühling/Étude.wav"}, "Fr-hling--tude"),
        ({"audio_path": "../up/a.wav"}, "---up-a"),
        ({"audio_path": "練習.wav"}, "--"),
    ],
)
def test_a_key_comes_of_the_line_or_of_the_path_and_start(tmp_path, line, key):
    assert keys(tmp_path, line) == [key]


def test_paths_that_clean_to_one_key_get_hashes(tmp_path):
    """Eight digits of the path's SHA-256, for both of them: the order of lines has no part."""
    lines = [{"audio_path": path} for path in ("a b.wav", "a-b.wav", "c.wav")]
    found = keys(tmp_path, *lines)
    assert found == ["a-b-7301eec9", "a-b-7c7df190", "c"]
    assert keys(tmp_path, *lines[::-1]) == found[::-1]


def test_unicode_paths_stay_apart(tmp_path):
    found = keys(tmp_path, {"audio_path": "練習.wav"}, {"audio_path": "音楽.wav"})
    assert len(set(found)) == 2
    assert all(re.fullmatch("---[0-9a-f]{8}", key) for key in found)


def test_a_file_name_in_two_folders_makes_two_keys(tmp_path):
    lines = [{"audio_path": f"{folder}/take.wav", "start_time": 0} for folder in ("a", "b")]
    assert keys(tmp_path, *lines) == ["a-take-0", "b-take-0"]


def test_a_key_of_ones_own_is_never_changed(tmp_path):
    """A derived key gives way to it."""
    first, second = keys(tmp_path, {"audio_path": "b.wav", "key": "a"}, {"audio_path": "a.wav"})
    assert first == "a"
    assert re.fullmatch("a-[0-9a-f]{8}", second)


def test_a_key_of_ones_own_may_be_what_another_part_would_get(tmp_path):
    own = {"audio_path": "a.wav", "start_time": 5, "key": "a-1000"}
    first, second = keys(tmp_path, own, {"audio_path": "a.wav", "start_time": 1})
    assert first == "a-1000"
    assert re.fullmatch("a-1000-[0-9a-f]{8}", second)


def test_a_long_path_makes_a_key_that_fits_a_tar_header(tmp_path):
    lines = [
        {"audio_path": f"{'long/' * 30}{name}.wav", "start_time": 123456.789} for name in ("a", "b")
    ]
    found = keys(tmp_path, *lines)
    assert len(set(found)) == 2
    for key in found:
        assert len(key) <= MAX_KEY_BYTES
        assert re.fullmatch(r"(long-)+-?[0-9a-f]{8}-123456789", key)


def test_every_key_made_is_a_key(tmp_path):
    """Characters, lengths and starts of all kinds, in one file, so that collisions happen."""
    names = ["x" * n + c for n in (1, 60, 75, 90, 300) for c in ("", " ", "é", "-", "_", "..")]
    lines = [{"audio_path": f"{name}.wav", "start_time": t} for name in names for t in (0, 1e6)]
    found = keys(tmp_path, *lines)
    assert len(set(found)) == len(lines)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in found)
    assert max(map(len, found)) <= MAX_KEY_BYTES


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"audio_path": "a.wav"}, {"audio_path": "a.wav"}),
        ({"audio_path": "a.wav", "start_time": 1.0001}, {"audio_path": "a.wav", "start_time": 1}),
        ({"audio_path": "a.wav", "key": "k"}, {"audio_path": "b.wav", "key": "k"}),
    ],
    ids=["path", "millisecond", "own"],
)
def test_two_annotations_of_one_key_are_refused_by_line(tmp_path, one, two):
    annotations, (rejection,) = read(tmp_path, one, {"audio_path": "c.wav"}, two)
    assert [annotation.line for annotation in annotations] == [1, 2]
    key = annotations[0].key
    assert (rejection.line, rejection.reason) == (3, f"key '{key}' is that of line 1 too")


# --- faults of a line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        ('{"audio_path": "a.wav"', "not JSON: Expecting ',' delimiter at column 23"),
        ("{'audio_path': 'a.wav'}", "not JSON"),
        ('{"audio_path": "a.wav"} {}', "not JSON: Extra data at column 25"),
        ('{"audio_path": "a\tb.wav"}', "not JSON: Invalid control character"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        ("[]", "not a JSON object but list"),
        ("null", "not a JSON object but NoneType"),
        ('"a.wav"', "not a JSON object but str"),
        ('{"audio_path": "a.wav", "x": NaN}', "nan is no JSON number; null says that"),
        ('{"audio_path": "a.wav", "labels": {"x": NaN}}', "label 'x' must be finite, got nan"),
        ('{"audio_path": "a.wav", "end_time": Infinity}', "must be a number of seconds, got inf"),
        ('{"audio_path": "a.wav", "x": -Infinity}', "-inf is no JSON number"),
        ('{"audio_path": "a.wav", "x": 1e999}', "inf is no JSON number"),
        ('{"audio_path": "a.wav", "x": 1%s}' % ("0" * 19), "an integer has 64 bits"),
        ('{"audio_path": "a.wav", "x": 1%s}' % ("0" * 5000), "an integer has at most 64 bits"),
        (r'{"audio_path": "\ud83d.wav"}', r"\ud83d is half of a surrogate pair"),
        (r'{"audio_path": "a.wav", "x": ["\udc00"]}', r"\udc00 is half of a surrogate pair"),
        ({}, "neither 'audio_path' nor 'midi_path' is given"),
        ({"audio": "a.wav"}, "neither 'audio_path' nor 'midi_path' is given"),
        ({"audio_path": None}, "neither 'audio_path' nor 'midi_path' is given"),
        ({"audio_path": ""}, "'audio_path' must be a path, got ''"),
        ({"audio_path": 7}, "'audio_path' must be a path, got 7"),
        ({"audio_path": ["a.wav"]}, "'audio_path' must be a path, got ['a.wav']"),
        ({"audio_path": "a\0.wav"}, "'audio_path' must be a path"),
        ({"audio_path": "/"}, "'/' names no file"),
        ({"audio_path": "."}, "'.' names no file"),
        ({"audio_path": "a.wav", "midi_path": False}, "'midi_path' must be a path, got False"),
        ({"audio_path": "a.wav", "start_time": "0:10"}, "'start_time' must be a number of seconds"),
        ({"audio_path": "a.wav", "start_time": True}, "'start_time' must be a number of seconds"),
        ({"audio_path": "a.wav", "end_time": [1]}, "'end_time' must be a number of seconds"),
        ({"audio_path": "a.wav", "start_time": -0.5}, "'start_time' must not be negative"),
        ({"audio_path": "a.wav", "start_time": 1e300}, "'start_time' must be at most 1000000000"),
        ({"midi_path": "a.mid", "end_time": 1e300}, "'end_time' must be at most 1000000000"),
        (
            {"audio_path": "a.wav", "start_time": 2, "end_time": 1},
            "'end_time' 1.0 is not after 'start_time' 2.0",
        ),
        (
            {"audio_path": "a.wav", "start_time": 2, "end_time": 2},
            "'end_time' 2.0 is not after 'start_time' 2.0",
        ),
        ({"audio_path": "a.wav", "end_time": 0}, "'end_time' 0.0 is not after 'start_time' 0.0"),
        ({"audio_path": "a.wav", "labels": [1]}, "'labels' must be an object of numbers, got [1]"),
        ({"audio_path": "a.wav", "labels": 3}, "'labels' must be an object of numbers, got 3"),
        (
            {"audio_path": "a.wav", "labels": {"tempo": "fast"}},
            "label 'tempo' must be a number or null, got 'fast'",
        ),
        (
            {"audio_path": "a.wav", "labels": {"tempo": True}},
            "label 'tempo' must be a number or null, got True",
        ),
        (
            {"audio_path": "a.wav", "labels": {"tempo": {"mean": 1}}},
            "label 'tempo' must be a number or null",
        ),
        ({"audio_path": "a.wav", "key": ""}, "'key' must be 1 to 88 letters, digits"),
        ({"audio_path": "a.wav", "key": 7}, "'key' must be 1 to 88 letters, digits"),
        ({"audio_path": "a.wav", "key": "a.b"}, "'key' must be 1 to 88 letters, digits"),
        ({"audio_path": "a.wav", "key": "a/b"}, "'key' must be 1 to 88 letters, digits"),
        ({"audio_path": "a.wav", "key": "é"}, "'key' must be 1 to 88 letters, digits"),
        ({"audio_path": "a.wav", "key": "a\n"}, "'key' must be 1 to 88 letters, digits"),
        ({"audio_path": "a.wav", "key": "k" * 89}, "'key' must be 1 to 88 letters, digits"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_a_fault_is_named_with_its_line(tmp_path, line, reason):
    annotations, (rejection,) = read(tmp_path, GOOD, "", line, '{"audio_path": "z.wav"}')
    assert [annotation.line for annotation in annotations] == [1, 4]
    assert rejection.line == 3
    assert reason in rejection.reason


@pytest.mark.parametrize("field", COMPUTED)
def test_what_the_packer_computes_cannot_be_given(tmp_path, field):
    _, (rejection,) = read(tmp_path, {"audio_path": "a.wav", field: 1})
    assert rejection.reason == f"'{field}' is computed by the packer and cannot be given"


def test_rejections_come_in_order_of_lines(tmp_path):
    _, rejected = read(tmp_path, GOOD, "{", GOOD, "[]", GOOD)
    assert [rejection.line for rejection in rejected] == [2, 3, 4, 5]
    good = json.loads(GOOD)
    assert [rejection.record for rejection in rejected] == ["{", good, "[]", good]


# --- faults of a file


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AnnotationError, match=r"none\.jsonl: no such annotation file"):
        read_annotations(tmp_path / "none.jsonl")


def test_a_folder_is_no_annotation_file(tmp_path):
    with pytest.raises(AnnotationError, match="is a folder; a JSONL file is expected"):
        read_annotations(tmp_path)


def test_a_path_through_a_file_is_an_error_of_the_data(tmp_path):
    (tmp_path / "file").write_text(GOOD)
    with pytest.raises(AnnotationError, match="cannot be read: Not a directory"):
        read_annotations(tmp_path / "file" / "a.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_a_file_without_annotations_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"a\.jsonl: holds no annotation"):
        read_annotations(tmp_path / "a.jsonl")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_refused(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_bytes('{"audio_path": "é.wav"}'.encode(encoding))
    with pytest.raises(AnnotationError, match=r"a\.jsonl: not UTF-8 text"):
        read_annotations(tmp_path / "a.jsonl")


# --- types over the whole file


@pytest.mark.parametrize(
    ("one", "two", "field", "types"),
    [
        (1, "1", "x", ("number", "string")),
        (True, 1, "x", ("boolean", "number")),
        ({"y": 1}, 1, "x", ("object", "number")),
        ([1], {"y": 1}, "x", ("array", "object")),
        ({"y": 1.5}, {"y": "a"}, "x.y", ("number", "string")),
        ([1, 2], ["a"], "x[]", ("number", "string")),
        ([{"t": 0}], [{"t": "0"}], "x[].t", ("number", "string")),
    ],
)
def test_a_field_of_two_types_names_both_lines(tmp_path, one, two, field, types):
    lines = [{"audio_path": f"{n}.wav", "x": x} for n, x in enumerate((None, one, None, two))]
    _, (rejection,) = read(tmp_path, *lines)
    assert (rejection.line, rejection.kind) == (4, Kind.MIXED_TYPES)
    assert rejection.reason == (
        f"'{field}' is of type {types[0]} on line 2 but {types[1]} on line 4; "
        "a field needs one type in all lines"
    )


def test_two_types_in_one_list_are_refused(tmp_path):
    _, (rejection,) = read(tmp_path, {"audio_path": "a.wav", "x": [1, "a"]})
    assert "'x[]' is of type number on line 1 but string on line 1" in rejection.reason


def test_a_line_of_another_type_leaves_no_trace(tmp_path):
    """What stands beside the fault is not held against later lines."""
    lines = [{"x": 1}, {"new": "text", "x": "1"}, {"new": 2, "x": 2}]
    reading = read_all(tmp_path, *({"audio_path": f"{n}.wav"} | x for n, x in enumerate(lines)))
    assert [rejection.line for rejection in reading.rejected] == [2]
    assert [annotation.line for annotation in reading.annotations] == [1, 3]


def test_a_dot_in_a_key_is_no_field_within(tmp_path):
    lines = [{"audio_path": "a", "x.y": 1}, {"audio_path": "b", "x": {"y": "text"}}]
    assert keys(tmp_path, *lines) == ["a", "b"]
    assert unify([{"x.y": 1}, {"x": {"y": 0.5}}])[0] == {"x.y": 1, "x": None}
    assert json.dumps(unify([{"x[]": 1}, {"x": [0.5]}])[0]) == '{"x[]": 1, "x": null}'


def test_whole_and_broken_numbers_are_one_type(tmp_path):
    assert keys(tmp_path, {"audio_path": "a", "x": 1}, {"audio_path": "b", "x": 1.5}) == ["a", "b"]


# --- records


def unify(records: list[dict]) -> list[dict]:
    layout = Layout()
    for line, record in enumerate(records, 1):
        layout.add(line, record)
    return list(Unified(records, lambda record: record, layout))


def test_every_record_gets_the_union_of_keys():
    assert unify([{"a": 1}, {"b": "x"}, {}]) == [
        {"a": 1, "b": None},
        {"a": None, "b": "x"},
        {"a": None, "b": None},
    ]


def test_the_union_reaches_into_objects_and_lists():
    one, two = unify([{"o": {"p": 1}, "l": [{"a": 1}, {"b": 2}]}, {"o": {"q": 2}, "l": None}])
    assert one == {"o": {"p": 1, "q": None}, "l": [{"a": 1, "b": None}, {"a": None, "b": 2}]}
    assert two == {"o": {"p": None, "q": 2}, "l": None}


def test_key_order_is_first_appearance_everywhere():
    records = unify([{"z": 1, "a": {"y": 1}}, {"m": 2, "a": {"b": 1, "y": 0}, "z": 3}])
    assert [json.dumps(record) for record in records] == [
        '{"z": 1, "a": {"y": 1, "b": null}, "m": null}',
        '{"z": 3, "a": {"y": 0, "b": 1}, "m": 2}',
    ]


def test_numbers_of_a_field_are_all_whole_or_all_floats():
    records = unify([{"n": 1, "f": 1, "d": {"x": 2}}, {"n": 2, "f": 0.5, "d": {"x": 2.5}}])
    assert json.dumps(records[0]) == '{"n": 1, "f": 1.0, "d": {"x": 2.0}}'
    assert json.dumps(records[1]) == '{"n": 2, "f": 0.5, "d": {"x": 2.5}}'


def test_numbers_in_lists_agree_within_and_between_records():
    records = unify([{"l": [1, 2], "e": [{"t": 1}]}, {"l": [0.5, 3], "e": [{"t": 0.25}]}])
    assert json.dumps(records[0]) == '{"l": [1.0, 2.0], "e": [{"t": 1.0}]}'
    assert json.dumps(records[1]) == '{"l": [0.5, 3.0], "e": [{"t": 0.25}]}'


def test_records_are_made_when_asked_for_and_parts_have_the_keys_of_all():
    asked = []

    def record_of(row: dict) -> dict:
        asked.append(row)
        return row

    layout, rows = Layout(), [{"a": 1}, {"b": "x"}, {"a": 0.5}]
    for line, row in enumerate(rows, 1):
        layout.add(line, row)
    records = Unified(rows, record_of, layout)
    assert not asked
    part = records.take([2, 0])
    assert list(part) == [{"a": 0.5, "b": None}, {"a": 1.0, "b": None}]
    assert (len(records), len(part), records[1], list(part[1:])) == (
        *(3, 2, {"a": None, "b": "x"}),
        [{"a": 1.0, "b": None}],
    )
    assert len(asked) == 4


def test_layouts_that_fill_alike_have_one_outline():
    def outline(*records: dict) -> object:
        layout = Layout()
        for line, record in enumerate(records, 1):
            layout.add(line, record)
        return layout.outline()

    one = outline({"a": 1, "l": [{"t": 1}]}, {"b": None})
    assert one == outline({"a": 2, "l": [{"t": 5}], "b": None})
    assert one != outline({"a": 0.5, "l": [{"t": 1}], "b": None})
    assert one != outline({"a": 1, "l": [{"t": 1}]})
    assert one != outline({"a": 1, "l": [{"t": 1, "u": 1}], "b": None})


def test_a_layout_that_is_closed_takes_no_new_field():
    layout = Layout({"a": 1, "o": {"p": "x"}, "l": [{"t": 0.5}], "n": None})
    layout.add(1, {"a": 2, "o": {}, "l": [{"t": 1}], "n": 7})
    for record, reason in (
        ({"b": 1}, "'b' is no field of the dataset"),
        ({"o": {"q": 1}}, "'o.q' is no field of the dataset"),
        ({"l": [{"u": 1}]}, r"'l\[\].u' is no field of the dataset"),
        ({"a": 0.5}, "'a' is a whole number in the dataset, and here is not"),
        ({"a": "1"}, "'a' is of type number in the dataset but string on line 2"),
    ):
        with pytest.raises(FaultError, match=reason):
            layout.add(2, record)


# --- other parts of a recording


def test_another_part_of_a_recording_has_its_own_key_and_times(tmp_path):
    lines = [{"audio_path": "a b.wav", "start_time": 5, "labels": {"x": 1}}]
    lines += [{"audio_path": "c.wav", "key": "k" * 88}, {"audio_path": "d.wav", "key": "own"}]
    annotations, _ = read(tmp_path, *lines)
    cut = [recut(annotation, (1.5, 3.0)) for annotation in annotations]
    assert cut[0].key == "a-b-1500"
    assert re.fullmatch(r"k{74}-[0-9a-f]{8}-1500", cut[1].key)
    assert cut[2].key == "own-1500"
    assert (cut[0].start_s, cut[0].end_s, cut[0].labels) == (1.5, 3.0, {"x": 1.0})
    assert cut[0].record == lines[0] | {"start_time": 1.5, "end_time": 3.0}
    whole = [recut(annotation, None) for annotation in annotations]
    assert [one.key for one in whole] == ["a-b", "k" * 88, "own"]
    assert whole[0].record == lines[0] | {"start_time": None}
    assert (whole[0].start_s, whole[0].end_s, whole[2].record) == (0.0, None, lines[2])


def test_parts_of_paths_that_clean_alike_are_told_apart_again(tmp_path):
    annotations, _ = read(tmp_path, {"audio_path": "a b.wav"}, {"audio_path": "a-b.wav"})
    cut = [recut(one, window) for one in annotations for window in ((0.0, 1.0), (1.0, 2.0))]
    distinct, rejected = with_distinct_keys(cut)
    assert not rejected
    assert [one.key for one in distinct] == [
        *("a-b-0-7301eec9", "a-b-1000-7301eec9", "a-b-0-7c7df190", "a-b-1000-7c7df190"),
    ]


@pytest.mark.parametrize(
    "rules", [{"only": "labels"}, {"label_range": (1, 0)}], ids=["only", "label_range"]
)
def test_rules_that_cannot_be_are_refused(tmp_path, rules):
    with pytest.raises(ValueError, match=next(iter(rules))):
        Rules(tmp_path, **rules)
