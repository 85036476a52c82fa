"""packer.append, packer.inputs: what is added fits all of a dataset, and is added once."""

import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import SAMPLE_RATE, write_midi, write_sound

from packer import append as appending
from packer.append import append
from packer.build import build
from packer.inputs import read_input, rules_for
from packer.intake import Intake
from packer.options import Options
from packer.render import render_annotations
from packer.target import Target
from packer.verify import verify
from shards.errors import AnnotationError, FetchError, ManifestError
from shards.faults import Kind
from shards.manifest import NAME, load_manifest
from shards.reader import ShardReader


def write_lines(folder: Path, name: str, *numbers: int, **changed: Any) -> Path:
    """Annotations of a second of sound each, by number."""
    for number in numbers:
        write_sound(folder / f"{number}.wav", seconds=1.0, seed=number)
    lines = [{"audio_path": f"{number}.wav"} | changed for number in numbers]
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make(annotations: Path, out: Path, **options: Any) -> None:
    chosen = Options(sample_rate=SAMPLE_RATE, **options)
    build(annotations, str(out), options=chosen, workers=0, progress=False)


def add(annotations: Path, url: Path, **arguments: Any) -> int:
    return append(annotations, str(url), workers=0, progress=False, **arguments).added


def records(dataset: Path) -> list[dict[str, Any]]:
    found = []
    for shard in sorted(dataset.glob("*.tar")):
        with ShardReader(shard) as reader:
            found += [json.loads(reader.read(row)["json"]) for row in range(len(reader))]
    return found


def is_whole(url: Path) -> bool:
    return not any(one.faults for one in verify(str(url), workers=0, progress=False))


# --- several at once


@pytest.fixture
def held(tmp_path, monkeypatch) -> Iterator[Callable[[], list[str]]]:
    """An append to ``out`` of another thread that waits before it joins what it packed.

    What is called lets it go on to its end, and says how it was refused.
    """
    reached, go_on, refused = threading.Event(), threading.Event(), []
    join = appending._join

    def wait_and_join(*arguments: Any) -> Any:
        if threading.current_thread() is thread:
            reached.set()
            assert go_on.wait(60)
        return join(*arguments)

    def run() -> None:
        try:
            add(annotations, tmp_path / "out", spool=tmp_path / "spool")
        except ManifestError as error:
            refused.append(str(error))

    def end() -> list[str]:
        go_on.set()
        thread.join(60)
        return refused

    monkeypatch.setattr(appending, "_join", wait_and_join)
    make(write_lines(tmp_path, "a.jsonl", 0), tmp_path / "out")
    annotations = write_lines(tmp_path, "b.jsonl", 1)
    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(60)
    yield end
    end()


def test_of_two_appends_on_one_machine_the_second_is_refused(held, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FetchError, match="another build on this machine"):
        add(write_lines(tmp_path, "c.jsonl", 2), out, spool=tmp_path / "spool")
    assert held() == []
    assert is_whole(out)
    assert [record["audio_path"] for record in records(out)] == ["0.wav", "1.wav"]


def test_what_another_machine_added_meanwhile_is_not_lost(held, tmp_path, monkeypatch):
    """Each machine has temporary files of its own, and sees no lock of the other."""
    out = tmp_path / "out"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert add(write_lines(tmp_path, "c.jsonl", 2), out, spool=tmp_path / "other") == 1
    (refused,) = held()
    assert "was changed meanwhile" in refused
    assert is_whole(out)
    assert [record["audio_path"] for record in records(out)] == ["0.wav", "2.wav"]


# --- what fits


def test_a_field_has_the_type_that_any_sample_gives_it(tmp_path):
    """Also within an object, and if it is null in the first shard."""
    first = write_lines(tmp_path, "1.jsonl", 0, m={"x": None})
    second = write_lines(tmp_path, "2.jsonl", 1, m={"x": "text"})
    both = tmp_path / "a.jsonl"
    both.write_text(first.read_text() + second.read_text())
    make(both, tmp_path / "out", shard_bytes=1, order="given")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    with pytest.raises(
        AnnotationError, match=r"'m\.x' is of type string in the dataset but number"
    ):
        add(write_lines(tmp_path, "b.jsonl", 2, m={"x": 5.5}), tmp_path / "out")
    assert add(write_lines(tmp_path, "c.jsonl", 2, m={"x": "more"}), tmp_path / "out") == 1


def test_lines_without_midi_join_a_dataset_with_midi(tmp_path):
    write_midi(tmp_path / "0.mid", onsets=np.array([0.0]))
    out = tmp_path / "out"
    make(write_lines(tmp_path, "a.jsonl", 0, midi_path="0.mid"), out, midi="notes")
    assert add(write_lines(tmp_path, "b.jsonl", 1), out) == 1
    assert [record["has_midi"] for record in records(out)] == [True, False]
    assert is_whole(out)


def test_other_members_are_refused_before_anything_is_encoded(tmp_path):
    write_midi(tmp_path / "0.mid", onsets=np.array([0.0]))
    write_midi(tmp_path / "1.mid", onsets=np.array([0.0]), pitch=70)
    make(write_lines(tmp_path, "a.jsonl", 0, midi_path="0.mid"), tmp_path / "out")
    more = write_lines(tmp_path, "b.jsonl", 1, audio_path=None, midi_path="1.mid")
    with pytest.raises(ManifestError, match="its samples have flac, mid, but the new ones mid"):
        add(more, tmp_path / "out", spool=tmp_path / "spool")
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_windows_are_cut_as_those_of_the_dataset(tmp_path):
    write_sound(tmp_path / "long.wav", seconds=4.0, seed=7)
    (tmp_path / "a.jsonl").write_text('{"audio_path": "long.wav"}\n')
    chosen = {"options": Options(sample_rate=SAMPLE_RATE), "workers": 0, "progress": False}
    intake = Intake(segment_s=1.0, hop_s=0.5)
    build(tmp_path / "a.jsonl", str(tmp_path / "out"), intake=intake, **chosen)
    write_sound(tmp_path / "more.wav", seconds=2.0, seed=8)
    (tmp_path / "b.jsonl").write_text('{"audio_path": "more.wav"}\n')
    assert add(tmp_path / "b.jsonl", tmp_path / "out") == 3
    write_sound(tmp_path / "other.wav", seconds=2.0, seed=9)
    (tmp_path / "c.jsonl").write_text('{"audio_path": "other.wav"}\n')
    assert add(tmp_path / "c.jsonl", tmp_path / "out", intake=Intake(segment_s=2.0)) == 1


# --- what was left out


@pytest.mark.parametrize("obstacle", ["keys.bin", NAME, "README.md"])
def test_the_list_of_what_was_left_out_is_where_it_is_said(tmp_path, monkeypatch, caplog, obstacle):
    """Whenever an append is killed; and made again if it had to be, no line stands there twice."""
    out, arguments = tmp_path / "out", {"max_rejected": 0.5}
    make(write_lines(tmp_path, "a.jsonl", 0), out)
    more = write_lines(tmp_path, "b.jsonl", 1, 2)
    (tmp_path / "2.wav").unlink()
    write = Target.write

    def killed(target: Target, name: str, data: bytes) -> None:
        if name == obstacle and target.url == str(out):
            raise KeyboardInterrupt
        write(target, name, data)

    monkeypatch.setattr(Target, "write", killed)
    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING):
        add(more, out, **arguments)
    monkeypatch.undo()
    assert f"1 of 2 left out: {out}/rejected.jsonl" in caplog.text
    if obstacle != "README.md":
        add(more, out, **arguments)
    (line,) = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    assert (line["annotations"], line["line"]) == ("b.jsonl", 2)


@pytest.mark.parametrize("obstacle", ["keys.bin", NAME, "README.md"])
def test_shards_that_a_broken_append_left_are_not_given_to_anybody(tmp_path, monkeypatch, obstacle):
    """The card's ``*.tar`` would name them, and no manifest."""
    out = tmp_path / "out"
    make(write_lines(tmp_path, "a.jsonl", 0), out, shard_bytes=1)
    many, fewer = write_lines(tmp_path, "b.jsonl", 1, 2, 3), write_lines(tmp_path, "c.jsonl", 4)
    write = Target.write

    def killed(at: str) -> Callable[[Target, str, bytes], None]:
        def end_at(target: Target, name: str, data: bytes) -> None:
            if name == at and target.url == str(out):
                raise KeyboardInterrupt
            write(target, name, data)

        return end_at

    monkeypatch.setattr(Target, "write", killed("keys.bin"))
    with pytest.raises(KeyboardInterrupt):
        add(many, out)
    assert len(list(out.glob("*.tar"))) == 4
    if obstacle != "keys.bin":
        monkeypatch.setattr(Target, "write", killed(obstacle))
        with pytest.raises(KeyboardInterrupt):
            add(fewer, out)
    monkeypatch.undo()
    if obstacle != "README.md":
        add(fewer, out)
    shards = load_manifest((out / NAME).read_bytes(), name="").shards
    assert len(shards) == 2
    named = {f"{info.url}{end}" for info in shards for end in ("", ".idx")}
    assert {path.name for path in out.glob("shard-*")} == named
    assert is_whole(out)


# --- what is there already


def grown(folder: Path, *numbers: int) -> Path:
    return write_lines(folder, "grown.jsonl", *numbers, score=1)


@pytest.mark.parametrize("whole", [False, True])
def test_of_a_file_that_has_grown_what_is_new_is_added(tmp_path, whole):
    out, intake = tmp_path / "out", Intake(whole=whole)
    make(write_lines(tmp_path, "a.jsonl", 0, 1, score=1), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    more = grown(tmp_path, 0, 1, 2, 3)
    with pytest.raises(AnnotationError, match=r"2 of 4 (?s:.*)--max-rejected 50%"):
        add(more, out, intake=intake, max_rejected=0.49)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert add(more, out, intake=intake, max_rejected=0.5) == 2
    assert is_whole(out)
    assert {record["audio_path"] for record in records(out)[2:]} == {"2.wav", "3.wav"}
    left_out = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in left_out] == [
        (line, f"key '{line - 1}' is in the dataset already") for line in (1, 2)
    ]
    assert {row["kind"] for row in left_out} == {Kind.KNOWN_KEY}


def test_what_is_there_already_is_not_opened(tmp_path):
    out = tmp_path / "out"
    make(write_lines(tmp_path, "a.jsonl", 0, 1, score=1), out)
    more = grown(tmp_path, 0, 1, 2)
    for number in (0, 1):
        (tmp_path / f"{number}.wav").unlink()
    assert add(more, out, max_rejected=0.7) == 1
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {Kind.KNOWN_KEY}


def test_windows_that_are_there_already_are_left_out(tmp_path):
    out = tmp_path / "out"
    first = write_lines(tmp_path, "a.jsonl", 0, score=1)
    build(
        first,
        str(out),
        options=Options(sample_rate=SAMPLE_RATE),
        intake=Intake(segment_s=0.5),
        workers=0,
        progress=False,
    )
    more = grown(tmp_path, 0, 1)
    with pytest.raises(AnnotationError, match="is in the dataset already"):
        add(more, out)
    assert add(more, out, max_rejected=0.5) == 2
    assert is_whole(out)
    assert len(records(out)) == 4


def rows_left_out(out: Path) -> list[tuple[str, str]]:
    """(path, kind) of each line that was left out."""
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return [(row["record"]["audio_path"], row["kind"]) for row in rows]


@pytest.mark.parametrize("segment_s", [None, 0.5])
def test_a_recording_that_is_there_is_not_added_under_another_key(tmp_path, segment_s):
    """Nor to another split, where a model would be tested on what it was taught."""
    out, intake = tmp_path / "out", Intake(segment_s=segment_s)
    first = write_lines(tmp_path, "a.jsonl", *range(4), score=1, start_time=None, end_time=None)
    options = Options(sample_rate=SAMPLE_RATE, split={"train": 0.5, "val": 0.5})
    build(first, str(out), options=options, intake=intake, workers=0, progress=False)
    there = records(out / "val")[0]["audio_path"]
    shutil.copy(tmp_path / there, tmp_path / "copy.wav")
    more = grown(tmp_path, 0, 1, 2, 3, 4)
    again = [
        {"audio_path": there, "score": 1, "key": "other"},
        {"audio_path": there, "score": 1, "key": "explicit", "start_time": 0.0, "end_time": 1.0},
    ]
    if segment_s:
        again.append({"audio_path": "copy.wav", "score": 1})
    more.write_text(more.read_text() + "".join(json.dumps(line) + "\n" for line in again))
    assert add(more, out / "train", max_rejected=0.9) == (2 if segment_s else 1)
    assert {r["audio_path"] for r in records(out / "train") + records(out / "val")} == {
        f"{number}.wav" for number in range(5)
    }
    twice = [path for path, kind in rows_left_out(out / "train") if kind == Kind.DUPLICATE_AUDIO]
    assert set(twice) == {line["audio_path"] for line in again}


def test_another_part_of_a_recording_that_is_there_is_added(tmp_path):
    out = tmp_path / "out"
    make(write_lines(tmp_path, "a.jsonl", 0, end_time=0.5), out)
    lines = [{"audio_path": "0.wav", "end_time": 0.5}, {"audio_path": "0.wav", "key": "all"}]
    lines[1] |= {"end_time": 1.0}
    more = tmp_path / "b.jsonl"
    more.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert add(more, out, max_rejected=0.5) == 1
    assert is_whole(out)


@pytest.mark.parametrize(
    ("first", "second"),
    [(["a b.wav"], ["a b.wav", "a-b.wav"]), (["a b.wav", "a-b.wav"], ["a b.wav"])],
    ids=["more alike", "fewer alike"],
)
@pytest.mark.parametrize("start", [None, 0.25])
def test_a_path_is_not_packed_again_when_lines_alike_come_or_go(tmp_path, first, second, start):
    for seed, name in enumerate(["a b.wav", "a-b.wav", "c.wav", "d.wav"]):
        write_sound(tmp_path / name, seconds=1.0, seed=seed)

    def lines(name: str, *paths: str, **keys: str) -> Path:
        rows = [
            {"audio_path": path, "start_time": start}
            | ({"key": keys[path]} if path in keys else {})
            for path in paths
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    out = tmp_path / "out"
    make(lines("a.jsonl", *first, "c.wav"), out)
    before = [record["audio_path"] for record in records(out)]
    with pytest.raises(AnnotationError, match="if it was not, give the line a 'key'"):
        add(lines("b.jsonl", *second, "d.wav"), out, max_rejected=0.1)
    assert add(lines("b.jsonl", *second, "d.wav"), out, max_rejected=0.9) == 1
    assert [record["audio_path"] for record in records(out)] == [*before, "d.wav"]
    assert rows_left_out(out) == [(path, Kind.KNOWN_KEY) for path in second]
    if len(second) > len(first):
        own = lines("c.jsonl", *second, **{"a-b.wav": "own"})
        assert add(own, out, max_rejected=0.9) == 1
        assert records(out)[-1]["audio_path"] == "a-b.wav"
    assert is_whole(out)


@pytest.mark.parametrize("kept_bytes", [0, 16, 40])
def test_keys_that_are_not_all_there_end_an_append(tmp_path, kept_bytes):
    """They would let in what the dataset has."""
    out = tmp_path / "out"
    make(write_lines(tmp_path, "a.jsonl", 0, 1, 2), out)
    keys = out / "keys.bin"
    keys.write_bytes(keys.read_bytes()[:kept_bytes])
    more = write_lines(tmp_path, "b.jsonl", 0, 1, 2, 3)
    with pytest.raises(ManifestError, match="so the keys of the dataset are not known"):
        add(more, out, max_rejected=0.9)
    assert len(records(out)) == 3


def test_a_file_of_which_all_is_there_is_refused(tmp_path):
    out = tmp_path / "out"
    make(write_lines(tmp_path, "a.jsonl", 0, 1), out)
    with pytest.raises(AnnotationError, match="none of its annotations can be packed"):
        add(tmp_path / "a.jsonl", out, max_rejected=1.0)
    assert is_whole(out)


# --- splits


def test_a_key_of_another_split_is_refused(tmp_path):
    out = tmp_path / "out"
    make(write_lines(tmp_path, "a.jsonl", 0, 1, 2, 3), out, split={"train": 0.5, "val": 0.5})
    (taken, *_) = records(out / "val")
    more = write_lines(tmp_path, "b.jsonl", int(taken["audio_path"][0]))
    with pytest.raises(AnnotationError, match="is in the dataset already"):
        add(more, out / "train")


def test_the_card_above_splits_counts_what_was_added(tmp_path):
    out, shares = tmp_path / "out", {"val": 0.5, "train": 0.5}
    make(write_lines(tmp_path, "a.jsonl", 0, 1, 2, 3), out, split=shares)
    before = (out / "README.md").read_text()
    assert add(write_lines(tmp_path, "b.jsonl", 4), out / "train") == 1
    counts = {
        split: load_manifest((out / split / NAME).read_bytes(), name=split).samples
        for split in shares
    }
    rows = [line for line in (out / "README.md").read_text().splitlines() if line[:2] == "| "]
    told = [line.split(" | ")[:2] for line in rows if line not in before.splitlines()]
    assert told == [["| train", str(counts["train"])], ["| all", "5"]]


def test_neighbours_that_are_no_splits_may_hold_the_same_keys(tmp_path):
    annotations = write_lines(tmp_path, "a.jsonl", 0)
    for name, codec in (("one", "flac"), ("two", "wav")):
        make(annotations, tmp_path / "sets" / name, audio=codec)
    more = write_lines(tmp_path, "b.jsonl", 1)
    assert [add(more, tmp_path / "sets" / name) for name in ("one", "two")] == [1, 1]
    assert not (tmp_path / "sets" / "README.md").exists()


# --- files


def test_removing_files_lists_no_folder(tmp_path, monkeypatch):
    """Listing would make it quadratic to clear a dataset."""
    target = Target(str(tmp_path))
    (tmp_path / "here").touch()
    monkeypatch.setattr(Target, "sizes", None)
    target.remove("here")
    target.remove("gone")
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_text_is_rejected_with_its_path(tmp_path):
    write_sound(tmp_path / "good.wav", seconds=0.1)
    odd = os.fsencode(tmp_path) + b"/b\xe9.wav"
    try:
        Path(os.fsdecode(odd)).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    reading = read_input(tmp_path, rules_for(tmp_path))
    assert [one.source for one in reading.annotations] == ["good.wav"]
    (rejected,) = reading.rejected
    assert (rejected.kind, rejected.reason) == (
        Kind.NO_PATH,
        r"'b\udce9.wav': its name is not UTF-8; rename it",
    )
    json.dumps(rejected.record, ensure_ascii=False).encode()


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    write_sound(tmp_path / "elsewhere" / "x.wav", seconds=0.1)
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "around").symlink_to(root)
    reading = read_input(root, rules_for(root))
    assert [one.source for one in reading.annotations] == ["linked/x.wav"]


@pytest.mark.parametrize("name", ["maestro-v3.0.0", "."])
def test_a_dataset_is_named_as_its_folder_is(tmp_path, monkeypatch, name):
    folder = tmp_path / "maestro-v3.0.0"
    write_sound(folder / "x.wav", seconds=0.1)
    monkeypatch.chdir(folder if name == "." else tmp_path)
    make(Path(name), tmp_path / "out")
    assert load_manifest((tmp_path / "out" / NAME).read_bytes(), name="").name == "maestro-v3.0.0"


@pytest.mark.parametrize("path", [".", "midi/..", "\0"])
def test_a_path_that_names_no_midi_file_is_a_fault_of_its_line(tmp_path, path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"midi_path": path}) + "\n")
    with pytest.raises(AnnotationError, match=r"a\.jsonl:1: "):
        render_annotations(tmp_path / "a.jsonl", tmp_path / "out", workers=0, progress=False)
