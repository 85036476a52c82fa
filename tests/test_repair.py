"""packer.repair: what is bad is remade to the byte, or nothing is replaced."""

import json
import shutil
from pathlib import Path

import corpus
import pytest

from packer.__main__ import main
from packer.append import append
from packer.build import build
from packer.options import Options
from packer.verify import verify

OPTIONS = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=30_000)
SPLIT = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=30_000, split={"a": 0.5, "b": 0.5})
FIRST, SECOND, THIRD = (f"shard-{number:06d}.tar" for number in range(3))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Annotations, a dataset of several groups of shards, and the same in splits."""
    folder = tmp_path_factory.mktemp("made")
    path = corpus.write_annotations(folder, samples=16)
    make(path, folder / "out")
    make(path, folder / "splits", options=SPLIT)
    return folder


@pytest.fixture
def dataset(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "set"))


def make(annotations: Path, out: Path, options: Options = OPTIONS) -> None:
    build(annotations, str(out), options=options, workers=0, max_rejected=0.2, progress=False)


def repair(dataset: Path, annotations: Path, *more: str) -> int:
    command = ["verify", str(dataset), "--repair", str(annotations), "--workers", "0", *more]
    return main(command)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def flip(path: Path, position: int = 2000) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def break_all(dataset: Path) -> None:
    """In every way that there is: flipped, cut short, missing, and other keys."""
    flip(dataset / FIRST)
    (dataset / SECOND).write_bytes((dataset / SECOND).read_bytes()[:5000])
    (dataset / THIRD).unlink()
    (dataset / f"{FIRST}.idx").unlink()
    flip(dataset / f"{SECOND}.idx", 8)
    flip(dataset / "keys.bin", 0)


def test_what_is_bad_becomes_what_it_was(made, dataset):
    break_all(dataset)
    assert repair(dataset, made / "annotations.jsonl") == 0
    assert tree(dataset) == tree(made / "out")


@pytest.mark.parametrize("name", ["keys.bin", f"{SECOND}.idx"])
def test_what_is_missing_beside_the_shards_is_made(made, dataset, name):
    (dataset / name).unlink()
    assert repair(dataset, made / "annotations.jsonl") == 0
    assert tree(dataset) == tree(made / "out")


def test_splits_are_repaired_each_by_itself_or_together(made, tmp_path):
    splits = Path(shutil.copytree(made / "splits", tmp_path / "splits"))
    flip(splits / "a" / FIRST)
    flip(splits / "b" / FIRST)
    assert repair(splits / "b", made / "annotations.jsonl") == 0
    assert repair(splits, made / "annotations.jsonl") == 0
    assert tree(splits) == tree(made / "splits")


def test_good_shards_stay_untouched(made, dataset):
    flip(dataset / SECOND)
    before = {path.name: path.stat().st_ino for path in dataset.iterdir()}
    assert repair(dataset, made / "annotations.jsonl") == 0
    after = {path.name: path.stat().st_ino for path in dataset.iterdir()}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {SECOND, f"{SECOND}.idx"}


def test_other_annotations_are_refused(made, dataset, caplog):
    flip(dataset / SECOND)
    before = tree(dataset)
    lines = (made / "annotations.jsonl").read_text().splitlines()[:-1]
    other = made / "other.jsonl"
    other.write_text("\n".join(lines) + "\n")
    assert repair(dataset, other) == 1
    assert repair(dataset, made / "annotations.jsonl", "--segment", "0.5") == 1
    assert caplog.text.count("input_sha256 says that it was packed of other") == 2
    assert tree(dataset) == before


def test_a_shard_of_another_hash_is_not_put_in_place(made, dataset, caplog):
    """As other versions of a codec would make it."""
    path = dataset / "manifest.json"
    document = json.loads(path.read_text())
    document["shardlist"][1]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    flip(dataset / FIRST)
    before = tree(dataset)
    assert repair(dataset, made / "annotations.jsonl") == 1
    assert f"{SECOND}: made anew it is not what it was" in caplog.text
    assert tree(dataset) == before


def test_samples_that_could_not_be_encoded_stay_out(tmp_path):
    folder = tmp_path / "corpus"
    path = corpus.write_annotations(folder, samples=16)
    (silent,) = folder.glob("audio/0003.wav")
    data = bytearray(silent.read_bytes())
    silent.write_bytes(data[:44] + bytes(len(data) - 44))
    make(path, tmp_path / "out")
    expected = tree(tmp_path / "out")
    assert "rejected.jsonl" in expected
    flip(tmp_path / "out" / FIRST)
    (tmp_path / "out" / SECOND).unlink()
    assert repair(tmp_path / "out", path) == 0
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize("url", ["out", "splits/b"])
def test_what_was_appended_is_remade_of_its_own_annotations(made, tmp_path, caplog, url):
    folder = Path(shutil.copytree(made / url, tmp_path / "set"))
    if url != "out":
        folder = Path(shutil.copytree(made / "splits", tmp_path / "splits")) / "b"
    old = len(list(folder.glob("*.tar")))
    twice = [append(_more(tmp_path, *new), str(folder), workers=0, progress=False) for new in NEW]
    names = [info.url for info in twice[-1].manifest.shards]
    expected = tree(folder)
    for name in (names[0], *names[old:]):
        flip(folder / name)
    (folder / "keys.bin").unlink()
    assert repair(folder, made / "annotations.jsonl") == 1
    assert repair(folder, tmp_path / "18.jsonl") == 1
    assert repair(folder, tmp_path / "16.jsonl") == 0
    assert tree(folder) == expected
    flip(folder / names[0])
    caplog.clear()
    assert repair(folder, tmp_path / "16.jsonl") == 1
    assert f"{names[0]}: packed of other annotations than these" in caplog.text


@pytest.mark.parametrize("url", ["out", "splits/b"])
def test_what_a_grown_file_added_is_remade_of_it(made, tmp_path, url):
    """Without the lines that were known then; later ones are no matter."""
    root = Path(shutil.copytree(made / Path(url).parts[0], tmp_path / "set"))
    folder = root if url == "out" else root / "b"
    arguments = {"workers": 0, "progress": False, "max_rejected": 0.95}
    sizes = [append(_more(tmp_path, 10, 17), str(folder), **arguments).added]
    sizes.append(append(_more(tmp_path, 12, 19), str(folder), **arguments).added)
    assert sizes == [1, 2]
    expected = tree(root)
    *_, one, two = sorted(folder.glob("*.tar"))
    for shard, source in ((one, "10.jsonl"), (two, "12.jsonl")):
        flip(shard)
        assert repair(folder, tmp_path / source) == 0
        assert tree(root) == expected


NEW = ((16, 18), (18, 19))


def _more(folder: Path, start: int, stop: int) -> Path:
    """Further annotations, the first ones without MIDI."""
    lines = corpus.write_annotations(folder, samples=stop).read_text().splitlines()[start:]
    records = [json.loads(line) | ({"midi_path": None} if start == 16 else {}) for line in lines]
    path = folder / f"{start}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_good_dataset_needs_no_annotations(dataset, tmp_path):
    assert repair(dataset, tmp_path / "missing.jsonl") == 0
    (result,) = verify(str(dataset), workers=0, progress=False)
    assert not result.bad
