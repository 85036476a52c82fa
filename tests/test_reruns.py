"""Building again: after everything, after another plan, after a torn note."""

import json
import shutil

import corpus
import pytest

from packer.build import build
from packer.options import Options
from packer.verify import verify
from shards.errors import ManifestError

OPTIONS = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=40_000)


def make(annotations, out, **options):
    return build(annotations, str(out), workers=0, progress=False, **{"options": OPTIONS} | options)


@pytest.fixture
def annotations(tmp_path):
    return corpus.write_annotations(tmp_path / "corpus", samples=10)


def faults(out) -> list[str]:
    found = verify(str(out), workers=0, progress=False)
    return [fault for one in found for fault in one.faults]


def test_splits_by_a_field_are_complete_the_second_time(tmp_path, annotations):
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    named = [line | {"split": "train" if line["number"] % 3 else "val"} for line in lines]
    annotations.write_text("\n".join(map(json.dumps, named)) + "\n")
    options = Options(sample_rate=corpus.SAMPLE_RATE, split_by="split")
    assert [one.made for one in make(annotations, tmp_path / "out", options=options)] == [True] * 2
    again = make(annotations, tmp_path / "out", options=options)
    assert [one.made for one in again] == [False] * 2


def test_shards_of_an_earlier_plan_do_not_stay(tmp_path, annotations):
    out = tmp_path / "out"
    make(annotations, out)
    straight = sorted(path.name for path in out.iterdir())
    (out / "manifest.json").unlink()
    identity = {"name": "annotations", "options": {}}
    (out / "build.json").write_text(json.dumps(identity))
    shutil.copy(out / "shard-000000.tar", out / "shard-000099.tar")
    make(annotations, out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == straight
    shutil.copy(out / "shard-000000.tar", out / "shard-000099.tar")
    assert faults(out) == [f"{out}/shard-000099.tar: the manifest does not name it"]


@pytest.mark.parametrize("note", ["", "[]", '{"name": '])
def test_a_torn_note_of_a_build_is_told_and_can_be_overwritten(tmp_path, annotations, note):
    out = tmp_path / "out"
    out.mkdir()
    (out / "build.json").write_text(note)
    with pytest.raises(ManifestError, match="choose another folder, or pass --overwrite"):
        make(annotations, out)
    assert make(annotations, out, overwrite=True)[0].made


def test_every_fault_of_a_shard_is_told(tmp_path, annotations):
    out = tmp_path / "out"
    make(annotations, out)
    tar = sorted(out.glob("*.tar"))[0]
    data = bytearray(tar.read_bytes())
    data[150] ^= 1  # in the checksum of the first header
    tar.write_bytes(data)
    told = " ".join(faults(out))
    assert "SHA-256 is not the manifest's" in told
    assert "header" in told
