"""python -m packer: what its commands say, to people who see them for the first time."""

import json
import shutil
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
from corpus import make_dataset, write_annotations

from loader import make_pipeline
from loader.relabel import read_labels
from packer import __main__ as cli
from packer import arguments
from packer.__main__ import main
from packer.relabel import relabel
from shards.errors import AnnotationError, ManifestError
from shards.manifest import load_manifest
from shards.reader import ShardReader

COMMANDS = ("build", "append", "relabel", "verify", "index", "view", "sample", "render")
HEAVY = {"torch", "numpy", "soundfile", "symusic", "pretty_midi", "fsspec", "soxr"}


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def build(path: Path, out: Path, *more: str) -> int:
    fixed = ["--workers", "0", "--sample-rate", "8000"]
    return main(["build", str(path), "--out", str(out), *fixed, *more])


# --- help


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert "examples:\n  python -m packer" in capsys.readouterr().out


def test_help_waits_for_no_heavy_package():
    """It is imported by the command that needs it, so help comes at once."""
    code = "import sys, packer.__main__; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "argparse" in run.stdout.split()
    assert not HEAVY & set(run.stdout.split())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--splt", "a=1"], "unrecognized arguments: --splt a=1; did you mean --split?"),
        (["--labelrange=0:1"], "did you mean --label-range?"),
        (["other"], "unrecognized arguments: other\n"),
    ],
)
def test_an_unknown_option_is_told_with_the_usage_of_its_command(capsys, given, told):
    with pytest.raises(SystemExit) as left:
        main(["build", "a.jsonl", "--out", "out", *given])
    assert left.value.code == 2
    text = capsys.readouterr().err
    assert told in text
    assert text.startswith("usage: python -m packer build ")


@pytest.mark.parametrize(("command", "goes_on"), [("build", True), ("view", False)])
def test_only_what_goes_on_says_so_when_interrupted(monkeypatch, caplog, command, goes_on):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, f"run_{command}", interrupted)
    assert main([command, "x", "--out", "out"]) == 130
    assert "interrupted" in caplog.text
    assert ("what is finished is not made anew" in caplog.text) == goes_on


# --- values of options


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (arguments.size, "32MB", 32_000_000),
        (arguments.size, "1.5 gb", 1_500_000_000),
        (arguments.size, "12000", 12_000),
        (arguments.size, "100B", 100),
        (arguments.share, "1%", 0.01),
        (arguments.share, "0.25", 0.25),
        (arguments.share, "100%", 1),
        (arguments.shares, "train=8, val=2", {"train": 8, "val": 2}),
        (arguments.prefix, "/a=/b=c", ("/a", "/b=c")),
        (arguments.value_range, "-1:2.5", (-1, 2.5)),
    ],
)
def test_values_are_read(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (arguments.size, "32", "32 is 32 bytes: say 32MB"),
        (arguments.size, "1.2.3MB", "no size such as 32MB"),
        (arguments.size, "32K", "no size such as 32MB"),
        (arguments.size, "much", "no size such as 32MB"),
        (arguments.share, "150%", "is not between 0 and 1"),
        (arguments.share, "nan", "is no number"),
        (arguments.shares, "train", "is not NAME=SHARE"),
        (arguments.shares, "../up=1", "is not NAME=SHARE"),
        (arguments.shares, "a=1,a=2", "'a' has two shares"),
        (arguments.shares, "a=x", "'x' is no number"),
        (arguments.prefix, "=/b", "is not OLD=NEW"),
        (arguments.value_range, "5", "is not LOWEST:HIGHEST"),
        (arguments.value_range, "5:1", "the lowest comes first"),
    ],
)
def test_values_that_cannot_be_are_named(read, text, message):
    with pytest.raises(ArgumentTypeError, match=message):
        read(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "ten"])
@pytest.mark.parametrize(
    "given",
    [
        ["build", "a.jsonl", "--out=out", "--segment"],
        ["build", "a.jsonl", "--out=out", "--segment=1", "--hop"],
        ["append", "out", "a.jsonl", "--tolerance"],
        ["verify", "out", "--segment"],
        ["sample", "out", "--piece-seconds"],
        ["sample", "out", "--clip-seconds"],
    ],
    ids=" ".join,
)
def test_an_option_that_is_no_number_is_told_at_once(capsys, given, text):
    with pytest.raises(SystemExit) as left:
        main([*given[:-1], f"{given[-1]}={text}"])
    assert left.value.code == 2
    assert f"argument {given[-1]}: {text!r} is no number" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1", "1%", "100%", "1.0"])
def test_a_share_of_one_that_may_be_a_percent_is_told(caplog, text):
    arguments.share(text)
    assert ("is all of them: say 1%, or 100%" in caplog.text) == (text == "1")


# --- build


@pytest.fixture
def annotations(tmp_path) -> Path:
    return write_annotations(tmp_path / "corpus", samples=10)


def test_a_build_ends_with_a_summary(annotations, tmp_path, capsys):
    assert build(annotations, tmp_path / "out", "--split", "train=0.8,val=0.2") == 0
    told = capsys.readouterr().out
    assert f"{tmp_path}/out/train: made: 8 samples, 0.00 h, 1 shards, " in told
    assert f"{tmp_path}/out/val: made: 2 samples" in told
    assert "  rank  8 ratings, 0" in told
    assert "python -m packer verify" in told


@pytest.mark.parametrize("split", [None, "b"])
def test_a_file_where_the_folder_has_to_be_is_named(annotations, tmp_path, caplog, split):
    file = tmp_path / "out" / split if split else tmp_path / "out"
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    assert build(annotations, tmp_path / "out", *(["--split", "a=1,b=1"] if split else [])) == 1
    assert f"{file}: is a file; a dataset is a folder" in caplog.text
    assert file.read_text() == "mine"


def test_a_dry_run_tells_all_and_writes_nothing(annotations, tmp_path, capsys, caplog):
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join([*lines, '{"audio_path": "gone.wav"}']) + "\n")
    before = tree(tmp_path)
    arguments_ = ["--dry-run", "--split", "a=0.5,b=0.5", "--max-rejected", "10%"]
    assert build(annotations, tmp_path / "out", *arguments_) == 0
    told = capsys.readouterr().out
    assert "a: about 5 samples, 0.00 h, 1 shards, 0.1 MB" in told
    assert "1 of 11 annotations would be left out\naudio missing (1): check --root" in told
    assert build(annotations, tmp_path / "out", "--dry-run") == 1
    assert "annotations.jsonl:11: " in caplog.text
    assert tree(tmp_path) == before


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--max-rejected", "100%"]])
def test_a_build_of_nothing_lists_why(tmp_path, caplog, more):
    path = tmp_path / "annotations.jsonl"
    path.write_text('{"audio_path": "gone.wav"}\n{}\n')
    assert build(path, tmp_path / "out", *more) == 1
    assert f"{path}: none of its annotations can be packed:\n  {path}:1: " in caplog.text
    assert "audio missing (1): check --root" in caplog.text
    assert "--max-rejected" not in caplog.text


def rewrite(path: Path, change) -> None:
    """Change the lines of an annotation file."""
    lines = [change(n, json.loads(text)) for n, text in enumerate(path.read_text().splitlines())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("old", "new", "contents"),
    [
        ("labels", "lables", "audio and MIDI, no labels"),
        ("audio_path", "audiopath", "MIDI alone, 2 labels"),
        ("midi_path", "Midi_Path", "audio alone, 2 labels"),
    ],
)
def test_a_slip_in_the_name_of_a_field_is_told(
    annotations, tmp_path, capsys, caplog, more, old, new, contents
):
    rewrite(annotations, lambda n, line: {new if k == old else k: v for k, v in line.items()})
    assert build(annotations, tmp_path / "out", *more) == 0
    assert f"  {contents}" in capsys.readouterr().out
    assert f"{new!r} is kept as a field of the user's and not read: is {old!r} me" in caplog.text


def test_a_dry_run_shows_the_ratings_that_a_build_makes(annotations, tmp_path, capsys, caplog):
    rewrite(annotations, lambda n, one: one | ({"labels": {"rnak": 1}} if n == 9 else {}))
    tables = []
    for more in (["--dry-run"], []):
        assert build(annotations, tmp_path / "out", "--split", "a=1,b=1", *more) == 0
        told = capsys.readouterr().out.splitlines()
        tables.append([line for line in told if line.startswith("  ")])
    assert tables[0] == tables[1]
    assert sum(line.startswith("  rnak  1 ratings, 1 to 1") for line in tables[0]) == 1
    assert not caplog.text


def test_a_hundredth_may_be_left_out_unasked(tmp_path, caplog):
    path = write_annotations(tmp_path / "corpus", samples=100, midi=False, seconds=0.1)
    lines = path.read_text().splitlines()
    bad = json.dumps({"audio_path": "gone.wav"})
    path.write_text("\n".join([*lines[:99], bad]) + "\n")
    assert build(path, tmp_path / "one") == 0
    assert "1 of 100 left out" in caplog.text
    path.write_text("\n".join([*lines[:98], bad, bad.replace("gone", "lost")]) + "\n")
    assert build(path, tmp_path / "two") == 1
    assert len((tmp_path / "two" / "rejected.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--split", "a=1,b=1", "--group-by", "composer"],
            "annotations.jsonl: line 1 has no 'composer', which --group-by needs on all lines; it "
            "has 'piece', 'number', 'labels', 'audio_path', 'midi_path'",
        ),
        (["--split-by", "composer"], "line 1 has no 'composer', which --split-by needs"),
        (["--split-by", "piece"], "annotations.jsonl:1: 'piece' is 'piece 0', which names no fold"),
        (["--split-by", "number"], "'number' is 0, which names no folder"),
        (
            ["--split", "a=1,b=1,c=1,d=1,e=1,f=1", "--group-by", "piece"],
            "5 groups of piece are too few for --split a=1,b=1,c=1,d=1,e=1,f=1, as none is "
            "divided: name fewer splits, --group-by a field of more values or pack more",
        ),
        (["--split", "a=1,b=1", "--split-by", "piece"], "split_by decides alone"),
        (["--group-by", "peice"], "--group-by peice keeps what is alike in one split, and there"),
        (["--hop", "1"], "hop_s is given without segment_s"),
    ],
)
def test_splits_that_cannot_be_say_why(annotations, tmp_path, caplog, more, message):
    assert build(annotations, tmp_path / "out", *more) == 1
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


def test_options_of_the_intake_reach_it(annotations, tmp_path):
    more = ["--segment", "0.5", "--hop", "0.25", "--subset", "7", "--only", "audio"]
    assert build(annotations, tmp_path / "out", *more) == 0
    manifest = load_manifest((tmp_path / "out/manifest.json").read_bytes(), name="out")
    assert (manifest.samples, manifest.duration_s) == (7, 3.5)
    assert manifest.fields == {"audio": "flac"}


def test_label_ranges_are_checked(annotations, tmp_path, caplog):
    assert build(annotations, tmp_path / "out", "--label-range", "0:0.8") == 1
    assert "annotations.jsonl:2: label 'odd' is 1, outside 0 to 0.8" in caplog.text


# --- append


def more_annotations(folder: Path, first: int, *, count: int = 4, **changed: object) -> Path:
    """Lines that go on where those of a dataset of ``first`` samples end."""
    path = write_annotations(folder, samples=first + count)
    lines = [json.loads(line) | changed for line in path.read_text().splitlines()[first:]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def appended(url: Path, path: Path, tmp_path: Path) -> int:
    where = ["--spool", str(tmp_path / "spool"), "--workers", "0"]
    return main(["append", str(url), str(path), *where])


def test_new_annotations_become_further_shards(annotations, tmp_path, capsys):
    out = tmp_path / "out"
    assert build(annotations, out, "--shard-size", "50KB", "--name", "set") == 0
    before = tree(out)
    old = load_manifest(before["manifest.json"], name="old")
    more = more_annotations(tmp_path / "more", 10)
    assert appended(out, more, tmp_path) == 0
    assert "4 samples were added" in capsys.readouterr().out
    after = tree(out)
    new = load_manifest(after["manifest.json"], name="new")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json", "keys.bin", "README.md"}
    assert (new.samples, new.duration_s, new.name) == (14, 14.0, "set")
    assert tuple(new.shards[: len(old.shards)]) == tuple(old.shards)
    assert len(new.shards) > len(old.shards)
    assert not list((tmp_path / "spool").glob("append-*"))
    rank, values = new.labels["rank"], [n / 10 for n in range(10)] + [n / 14 for n in range(10, 14)]
    assert (rank.count, rank.min, rank.max) == (14, 0.0, max(values))
    assert (rank.mean, rank.std) == pytest.approx((np.mean(values), np.std(values)))
    assert main(["verify", str(out), "--workers", "0"]) == 0
    assert build(annotations, out, "--shard-size", "50KB", "--name", "set") == 1  # other data now


def test_an_append_that_broke_off_is_made_again(annotations, tmp_path):
    """Killed between keys.bin and manifest, where shards and keys are there, but not named."""
    out, more = tmp_path / "out", more_annotations(tmp_path / "more", 10)
    assert build(annotations, out) == 0
    manifest = (out / "manifest.json").read_bytes()
    assert appended(out, more, tmp_path) == 0
    straight = tree(out)
    (out / "manifest.json").write_bytes(manifest)
    assert appended(out, more, tmp_path) == 0
    assert tree(out) == straight


@pytest.mark.parametrize(
    ("first", "changed", "message"),
    [
        (9, {}, "annotations.jsonl:1: key 'audio-0009' is in the dataset already"),
        (10, {"mood": "calm"}, "annotations.jsonl:1: 'mood' is no field of the dataset"),
        (10, {"labels": {"new": 1}}, ":1: 'labels.new' is no field of the dataset"),
        (10, {"piece": 5}, ":1: 'piece' is of type string in the dataset but number on line 1"),
        (10, {"number": 0.5}, ":1: 'number' is a whole number in the dataset, and here is not"),
        (10, {"audio_path": None}, "its samples have flac, mid, but the new ones mid"),
    ],
)
def test_what_does_not_join_a_dataset_is_refused(
    annotations, tmp_path, caplog, first, changed, message
):
    out = tmp_path / "out"
    assert build(annotations, out) == 0
    before = tree(out)
    more = more_annotations(tmp_path / "more", first, **changed)
    assert appended(out, more, tmp_path) == 1
    assert message in caplog.text
    assert tree(out) == before


def test_one_split_is_appended_to(annotations, tmp_path, caplog):
    out, more = tmp_path / "out", more_annotations(tmp_path / "more", 10)
    assert build(annotations, out, "--split", "a=1,b=1") == 0
    assert appended(out, more, tmp_path) == 1
    assert f"holds splits; name one: {out}/a or {out}/b" in caplog.text
    assert appended(out / "b", more, tmp_path) == 0
    assert main(["verify", str(out), "--workers", "0"]) == 0


@pytest.mark.parametrize("name", ["tr2", "out/tr2"])
def test_a_copy_of_a_split_is_appended_to_by_itself(annotations, tmp_path, name):
    assert build(annotations, tmp_path / "out", "--split", "train=1,val=1") == 0
    before = tree(tmp_path / "out")
    copied = shutil.copytree(tmp_path / "out/train", tmp_path / name)
    assert appended(copied, more_annotations(tmp_path / "more", 10), tmp_path) == 0
    assert load_manifest((copied / "manifest.json").read_bytes(), name="copy").samples == 9
    after = tree(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert not (tmp_path / "README.md").exists()


def test_new_annotations_may_name_their_keys(annotations, tmp_path, caplog):
    """Also where the others have none: samples are called so, and get no further field."""
    out = tmp_path / "out"
    assert build(annotations, out) == 0
    more = more_annotations(tmp_path / "more", 10, count=1, key="mine")
    assert appended(out, more, tmp_path) == 0
    (last,) = sorted(out.glob("*.tar"))[1:]
    with ShardReader(last) as reader:
        assert reader.members(0)[0].key == "mine"
        assert "key" not in json.loads(reader.read(0)["json"])
    assert appended(out, more, tmp_path) == 1
    assert "key 'mine' is in the dataset already" in caplog.text
    assert "key in the dataset (1): remove lines that were packed before; give" in caplog.text


# --- relabel


def ratings(folder: Path, *lines: object) -> Path:
    path = folder / "ratings.jsonl"
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_new_ratings_lie_beside_shards_that_stay(dataset, tmp_path, capsys):
    before = tree(dataset)
    keys = [f"audio-{number:04d}" for number in range(50)]
    lines = [{"key": key, "labels": {"new": n, "x": None}} for n, key in enumerate(keys[:49])]
    path = ratings(tmp_path, *lines)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in before.items():
        (copy / name).write_bytes(data)
    assert main(["relabel", str(copy), str(path), "--label-range", "0:49"]) == 0
    told = capsys.readouterr().out
    assert "49 of 50 samples have new ratings" in told
    assert "  new  49 ratings, 0 to 48, mean 24" in told
    assert tree(copy).keys() - before.keys() == {"labels.jsonl"}
    assert {name: tree(copy)[name] for name in before} == before
    with make_pipeline(
        str(copy),
        labels=f"{copy}/labels.jsonl",
        dimensions=["new"],
        batch_size=50,
        shuffle=0,
        fields=["labels"],
    ) as pipe:
        (batch,) = pipe
    found = dict(zip(batch["__key__"], batch["labels"][:, 0].tolist(), strict=True))
    assert {key: found[key] for key in keys[:49]} == {key: n for n, key in enumerate(keys[:49])}
    assert np.isnan(found[keys[49]])


def test_ratings_of_a_folder_of_splits_are_one_file(annotations, tmp_path):
    out = tmp_path / "out"
    assert build(annotations, out, "--split", "a=1,b=1") == 0
    path = ratings(tmp_path, *({"key": f"audio-{n:04d}", "labels": {"x": n}} for n in range(10)))
    made = relabel(str(out), path)
    assert (made.url, made.rated, made.samples) == (f"{out}/labels.jsonl", 10, 10)
    assert sorted(entry.name for entry in out.iterdir()) == ["README.md", "a", "b", "labels.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"key": "gone", "labels": {}}, "ratings.jsonl:2: .* has no sample 'gone'"),
        ({"key": "audio-0000", "labels": {}}, ":2: key 'audio-0000' is that of line 1 too"),
        ({"key": "audio-0001"}, ":2: 'labels' must be an object of numbers, got None"),
        ({"key": 7, "labels": {}}, ":2: 'key' must name a sample, got 7"),
        ({"labels": {}}, ":2: 'key' must name a sample, got None"),
        ({"key": "audio-0001", "labels": {"x": "1"}}, ":2: label 'x' must be a number or null"),
        ({"key": "audio-0001", "labels": {"x": 2}}, ":2: label 'x' is 2, outside 0 to 1"),
        ({"key": "audio-0001", "labels": {"x": 10**400}}, ":2: label 'x' must be finite"),
        ({"key": "audio-0001", "labels": {"x": float("nan")}}, ":2: label 'x' must be finite"),
        ("{", ":2: not JSON"),
        ("[]", ":2: not a JSON object"),
    ],
)
def test_wrong_ratings_are_named_and_nothing_is_written(dataset, tmp_path, line, message):
    path = ratings(tmp_path, {"key": "audio-0000", "labels": {"x": 1}}, line)
    before = tree(dataset)
    with pytest.raises(AnnotationError, match=message):
        relabel(str(dataset), path, label_range=(0, 1))
    assert tree(dataset) == before


@pytest.mark.parametrize("count", [1, 3])
def test_wrong_ratings_are_counted_once(dataset, tmp_path, count):
    lines = [{"key": f"gone-{number}", "labels": {}} for number in range(count)]
    with pytest.raises(AnnotationError, match=f"^{count} of {count} lines of ratings cannot be us"):
        relabel(str(dataset), ratings(tmp_path, *lines))


def test_ratings_for_what_is_no_dataset_are_refused(tmp_path):
    path = ratings(tmp_path, {"key": "a", "labels": {}})
    with pytest.raises(ManifestError, match="not a dataset"):
        relabel(str(tmp_path), path)
    made = make_dataset(tmp_path / "made", samples=2)
    (made / "keys.bin").unlink()
    with pytest.raises(ManifestError, match=r"keys\.bin: is missing.*packer verify .* --repair"):
        relabel(str(made), path)


def test_an_index_of_keys_that_is_missing_is_made_by_the_command_that_is_named(
    annotations, tmp_path, caplog
):
    ours, others = tmp_path / "ours", tmp_path / "others"
    assert build(annotations, ours) == 0
    others.mkdir()
    for tar in ours.glob("*.tar"):
        shutil.copy(tar, others)
    assert main(["index", str(others), "--workers", "0"]) == 0
    path = ratings(tmp_path, {"key": "audio-0000", "labels": {"x": 1}})
    more = more_annotations(tmp_path / "more", 10)
    for folder in (ours, others):
        keys = (folder / "keys.bin").read_bytes()
        for damaged in (None, b"torn", b"", keys[:16]):
            (folder / "keys.bin").unlink()
            if damaged is not None:
                (folder / "keys.bin").write_bytes(damaged)
            caplog.clear()
            assert main(["relabel", str(folder), str(path)]) == 1
            assert folder == others or appended(folder, more, tmp_path) == 1
            for record in caplog.records:
                assert "keys.bin: is " in record.message
                command = record.message.partition("make it anew with: python -m packer ")[2]
            command = command.replace("ANNOTATIONS", str(annotations))
            assert main(command.split()) == 0
            assert (folder / "keys.bin").read_bytes() == keys
        assert main(["relabel", str(folder), str(path)]) == 0


def test_samples_that_lose_their_ratings_are_counted(dataset, tmp_path, caplog):
    for name in ("manifest.json", "keys.bin"):
        (tmp_path / name).write_bytes((dataset / name).read_bytes())
    lines = [{"key": f"audio-{n:04d}", "labels": {"x": n}} for n in range(3)]
    relabel(str(tmp_path), ratings(tmp_path, *lines))
    relabel(str(tmp_path), ratings(tmp_path, *lines))
    assert not caplog.records
    with (tmp_path / "labels.jsonl").open("ab") as file:
        file.write(b'{"key": "cut o\xff\n[]\n')
    relabel(str(tmp_path), ratings(tmp_path, lines[1]))
    assert "2 samples had ratings there and have none now, such as audio-0000" in caplog.text
    assert read_labels(f"{tmp_path}/labels.jsonl") == {"audio-0001": {"x": 1.0}}


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_ratings_replaces_none(dataset, tmp_path, content):
    for name in ("manifest.json", "keys.bin"):
        (tmp_path / name).write_bytes((dataset / name).read_bytes())
    relabel(str(tmp_path), ratings(tmp_path, {"key": "audio-0000", "labels": {"x": 1}}))
    before = tree(tmp_path)
    empty = tmp_path.with_suffix(".jsonl")
    empty.write_bytes(content)
    with pytest.raises(AnnotationError, match=r"\.jsonl: holds no ratings"):
        relabel(str(tmp_path), empty)
    assert tree(tmp_path) == before
