"""The dataset card: read by Hugging Face, equal for equal datasets, safe with any name."""

import io
import json
import re
from pathlib import Path

import corpus
import numpy as np
import pytest
import yaml

from packer.build import build
from packer.card import NAME, card, put_card
from packer.options import Options
from packer.splits import open_splits
from packer.target import Target
from shards.manifest import LabelStats, Manifest, ShardInfo
from shards.reader import ShardReader

TRAIN = Manifest(
    name="sonatas",
    shards=(ShardInfo("shard-000000.tar", 1000, 3_000_000),),
    fields={"audio": "flac", "midi": "mid"},
    labels={"touch": LabelStats(1000, 1.0, 4.0, 2.0, 0.0)},
    options={"audio": "flac", "sample_rate": 24000, "seed": 0},
    duration_s=7200.0,
    packer_version="0.1.0",
)
VAL = Manifest(
    name="sonatas",
    shards=(ShardInfo("shard-000000.tar", 250, 500_000),),
    fields=TRAIN.fields,
    labels={"touch": LabelStats(500, -1.0, 3.0, 0.5, 1.0)},
    duration_s=1800.0,
)


def head(text: str) -> dict:
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


def test_the_head_names_splits_size_and_columns():
    front = head(card({"train": TRAIN, "val": VAL}))
    assert front["pretty_name"] == "sonatas"
    assert front["size_categories"] == ["1K<n<10K"]
    assert front["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "train/*.tar"},
                {"split": "val", "path": "val/*.tar"},
            ],
        }
    ]
    columns = [column["name"] for column in front["dataset_info"]["features"]]
    assert columns == ["json", "flac", "mid", "__key__", "__url__"]


@pytest.mark.parametrize(
    ("samples", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6 - 1, "100K<n<1M"), (10**12, "n>1T")],
)
def test_size_categories_are_hugging_faces(samples, category):
    manifest = Manifest("n", (ShardInfo("a.tar", samples),))
    assert head(card({"": manifest}))["size_categories"] == [category]


def test_the_tables_add_splits_up():
    text = card({"train": TRAIN, "val": VAL})
    assert "| train | 1,000 | 2.00 | 1 | 3.0 |" in text
    assert "| all | 1,250 | 2.50 | 2 | 3.5 |" in text
    # 1,000 values of 2 and 500 of mean 0.5, deviation 1: a mean of 1.5, a variance of 5 / 6
    assert "| touch | 1,500 | -1 | 1.5 | 4 | 0.9129 |" in text
    assert "| `KEY.flac` | the recording, mono, 24000 Hz |" in text


@pytest.mark.parametrize(
    "name", ["no", "a: b", "- x", "<script>alert(1)</script>", "a|b\n# c", "№"]
)
def test_any_name_is_only_a_name(name):
    labels = {name: LabelStats(1, 0.0, 0.0, 0.0, 0.0)}
    text = card({"": Manifest(name, (), description=name, labels=labels)})
    assert head(text)["pretty_name"] == name
    body = text.split("---\n", 2)[2]
    assert not re.search(r"(?<!\\)<script", body)
    assert len(re.findall(r"^# ", body, re.M)) == 1
    (row,) = [line for line in body.splitlines() if line.endswith("| 1 | 0 | 0 | 0 | 0 |")]
    assert row.replace("\\|", "").count("|") == 7


def test_a_split_that_hugging_face_would_refuse_is_renamed():
    files = head(card({"train-small": TRAIN}))["configs"][0]["data_files"]
    assert files == [{"split": "train_small", "path": "train-small/*.tar"}]


def test_equal_manifests_give_equal_cards(tmp_path):
    assert card({"train": TRAIN}) == card({"train": TRAIN})
    assert str(Path.home()) not in card({"train": TRAIN})


def test_a_readme_of_somebody_else_is_kept(tmp_path):
    target = Target(str(tmp_path))
    put_card(target, {"train": TRAIN})
    put_card(target, {"train": TRAIN, "val": VAL})
    assert (tmp_path / NAME).read_text() == card({"train": TRAIN, "val": VAL})
    (tmp_path / NAME).write_text("mine")
    put_card(target, {"train": TRAIN})
    assert (tmp_path / NAME).read_text() == "mine"


# ---- Hugging Face reads it


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of two splits, with its card."""
    root = tmp_path_factory.mktemp("card") / "shards"
    for split, samples in (("train", 8), ("val", 3)):
        made = corpus.make_dataset(tmp_path_factory.mktemp(split), samples=samples, shard_samples=4)
        made.rename(root / split) if root.exists() else (root.mkdir(), made.rename(root / split))
    put_card(
        Target(str(root)), {name: one.manifest for name, one in open_splits(str(root)).items()}
    )
    return root


def stored(folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    found = []
    for path in sorted(folder.glob("*.tar")):
        with ShardReader(path) as reader:
            rows = range(len(reader))
            found += [(reader.members(row)[0].key, reader.read(row)) for row in rows]
    return found


def record(data: bytes) -> dict:
    meta = json.loads(data)
    return meta | {"labels": rounded(meta)}


def rounded(meta: dict) -> dict:
    """Labels to nine digits: datasets keeps ten of a number in a column of JSON."""
    return {name: value and round(value, 9) for name, value in meta["labels"].items()}


@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "mapped"])
def test_load_dataset_reads_the_splits_through_the_card(folder, tmp_path, streaming):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    if not hasattr(datasets, "Json"):
        pytest.skip("datasets before 4.7 has no JSON columns")
    loaded = datasets.load_dataset(str(folder), streaming=streaming, cache_dir=str(tmp_path))
    assert list(loaded) == ["train", "val"]
    for split, rows in loaded.items():
        samples = stored(folder / split)
        for row, (key, files) in zip(rows, samples, strict=True):
            assert (row["__key__"], row["flac"], row["mid"]) == (key, files["flac"], files["mid"])
            assert row["json"] | {"labels": rounded(row["json"])} == record(files["json"])


def test_load_dataset_reads_arrays(tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    if not hasattr(datasets, "Json"):
        pytest.skip("datasets before 4.7 has no JSON columns")
    path = corpus.write_annotations(tmp_path, samples=3)
    options = Options(sample_rate=corpus.SAMPLE_RATE, audio="npy", midi="notes")
    (made,) = build(path, str(tmp_path / "out"), options=options, workers=0, progress=False)
    put_card(Target(str(tmp_path / "out")), {"": made.manifest})
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    for row, (key, files) in zip(loaded["train"], stored(tmp_path / "out"), strict=True):
        assert row["__key__"] == key
        for name in ("audio.npy", "notes.npy"):
            assert np.array_equal(row[name], np.load(io.BytesIO(files[name])))
