"""trainer.keylog: the log of keys stays readable, whatever the disk does."""

import errno
import json
import os

import pytest

from trainer.keylog import append, cut_back, line


def lines(*batches: int) -> list[dict]:
    return [line(epoch=0, batch=batch, keys=["a", "b"]) for batch in batches]


def batches(path) -> list[int]:
    return [json.loads(raw)["batch"] for raw in path.read_text().splitlines()]


def test_lines_that_find_no_room_leave_no_part_of_them(tmp_path, monkeypatch):
    path = tmp_path / "keys.jsonl"

    def full(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 5)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append(path, lines(1))
    assert path.read_bytes() == b""
    monkeypatch.undo()
    append(path, lines(1, 2))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append(path, lines(3))
    monkeypatch.undo()
    append(path, lines(3, 4))
    assert batches(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", ['{"epoch": 0, "ba{"epoch": 0}\n', "12\n", '{"epoch": 0}\n'])
def test_what_cannot_be_read_ends_the_log_and_is_told(tmp_path, torn, caplog):
    path = tmp_path / "keys.jsonl"
    append(path, lines(1, 2))
    with path.open("a") as file:
        file.write(torn)
    append(path, lines(4))
    cut_back(path, batches=9)
    assert batches(path) == [1, 2]
    assert "cannot be read" in caplog.text


def test_lines_behind_the_checkpoint_and_one_cut_short_go_without_a_word(tmp_path, caplog):
    path = tmp_path / "keys.jsonl"
    append(path, lines(1, 2, 3))
    cut_back(path, batches=2)
    with path.open("a") as file:
        file.write('{"epo')
    cut_back(path, batches=2)
    assert batches(path) == [1, 2]
    assert not caplog.records
