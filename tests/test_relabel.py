"""loader.relabel: ratings by key come back as they were given, and a wrong line is named."""

import json

import pytest

from loader.relabel import read_labels
from shards.errors import AnnotationError
from shards.faults import FaultError
from shards.line import check_labels


def write(path, *records: object) -> str:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_labels_come_back(tmp_path):
    given = {
        "a": {"x": 0.1, "y": -3},
        "b": {},
        "line\u2028separator": {"y": None, "new": 3e38, "more": -3e38},
        "c": {"x": 5.0, "y": None},
    }
    records = [{"key": key, "labels": own, "note": "kept out"} for key, own in given.items()]
    labels = read_labels(write(tmp_path / "l.jsonl", *records))
    assert dict(labels) == given
    assert labels.get("d", {}) == {}
    assert labels.label_names == ["x", "y", "new", "more"]


def test_a_byte_order_mark_is_none_of_the_first_line(tmp_path):
    """As Windows' editors write it, and ``packer relabel`` takes it."""
    path = tmp_path / "l.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"key": "a", "labels": {"x": 1}}).encode())
    assert read_labels(str(path)) == {"a": {"x": 1.0}}


GOOD = {"key": "a", "labels": {"x": 1}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Expecting"),
        (b"[]", "an object with a key"),
        (b"[" * 100_000, "recursion"),
        (b'{"key": 1, "labels": {}}', "an object with a key"),
        (b'{"key": "b"}', "labels must be"),
        (b'{"key": "b", "labels": [1]}', "labels must be"),
        (b'{"key": "b", "labels": {"x": true}}', "'x' must be a finite"),
        (b'{"key": "b", "labels": {"x": "1"}}', "'x' must be a finite"),
        (b'{"key": "b", "labels": {"y": 1, "x": NaN}}', "'x' must be a finite"),
        (b'{"key": "b", "labels": {"x": 1e999, "y": null}}', "'x' must be a finite"),
        (b'{"key": "b", "labels": {"y": -1e39, "x": 1e39}}', "'y' must be a finite"),
        (b'{"key": "b", "labels": {"x": 1e39, "y": null}}', "'x' must be a finite"),
        (b'{"key": "b", "labels": {"x": 1' + b"0" * 400 + b"}}", "too large"),
        (b'{"key": "a", "labels": {}}', "'a' came on an earlier line"),
        (b'{"key": "\xff", "labels": {}}', "utf-8"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, reason):
    path = tmp_path / "l.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(AnnotationError, match=rf"l\.jsonl:3: .*{reason}"):
        read_labels(str(path))


@pytest.mark.parametrize("value", [1e39, -3.5e38, 10**39])
def test_a_rating_beyond_float32_is_not_packed(value):
    """In a batch it would be infinite."""
    with pytest.raises(FaultError, match="label 'x' must be finite, got"):
        check_labels({"y": 3.4e38, "x": value})


@pytest.mark.parametrize("matching", [0, 1])
def test_labels_of_other_samples_are_told_once(tmp_path, caplog, matching):
    labels = read_labels(write(tmp_path / "l.jsonl", GOOD))
    for key in ["a"] * matching + [f"b{number}" for number in range(500)]:
        labels.get(key, {})
    told = [] if matching else ["none of the first 64 samples is among its 1 keys, such as 'a'"]
    assert [line for line in told if line in caplog.text] == told
    assert len(caplog.records) == len(told)
