"""Every code block of README and guides runs: on the corpus of ``packer sample``, other paths."""

import csv
import gc
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import yaml
from snippets import DOCUMENTS, ROOT, Block, blocks, commands, stray_marks

from packer.__main__ import main as packer
from packer.corpus import write_corpus

LANGUAGES = {"python", "sh", "json", "yaml", "text"}
# Its examples have tests of their own, with every epoch looked at.
ELSEWHERE = {"docs/composing.md": "test_composing.py"}
# Where a reader's data lie, and where they lie here, below a folder of the test's.
PLACES = {
    "/content/": "content",
    "s3://bucket/": "bucket",
    "/data/": "data",
    "/scratch/": "scratch",
}
# A reader's model would learn for hours, and measuring takes its time.
_MODEL = (
    "--model.dim 16 --model.layers 1 --model.heads 2 --model.n_mels 16 --trainer.precision 32-true"
)
_QUIET = "--trainer.accelerator cpu --trainer.enable_progress_bar false --data.batch_size 2"
_ONE_STEP = "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1"
SHORT = {
    ("trainer", "fit"): f"{_MODEL} {_QUIET} {_ONE_STEP}",
    ("trainer", "validate"): f"{_MODEL} {_QUIET}",
    ("trainer", "test"): f"{_MODEL} {_QUIET}",
    ("trainer", "preflight"): f"{_MODEL} {_QUIET}",
    ("loader", "bench"): "--seconds 0.1 --caches raw",
}

pytestmark = [
    # Lightning calls a function that torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is not resumable"),
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Ten pieces of three clips of ten seconds."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, pieces=10, piece_seconds=30.0, workers=0, progress=False)
    return folder


@pytest.fixture
def desk(recordings, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with annotations, recordings, MIDI and configs; and the mounts."""
    for name in ("annotations.jsonl", "audio", "midi"):
        (tmp_path / name).symlink_to(recordings / name)
    (tmp_path / "configs").mkdir()
    for config in (ROOT / "configs").glob("*.yaml"):
        (tmp_path / "configs" / config.name).write_text(placed(config.read_text(), tmp_path))
    for place in PLACES.values():
        (tmp_path / place).mkdir()
    drive = tmp_path / "content/drive/MyDrive/piano"
    drive.mkdir(parents=True)
    for name in ("audio", "midi"):
        (drive / name).symlink_to(recordings / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_reader_of_the_faq(desk: Path) -> dict[str, Any]:
    """Has a packed dataset."""
    command = "build annotations.jsonl --out packed --split train=0.8,val=0.2 --group-by piece"
    assert packer([*command.split(), "--workers", "0"]) == 0
    return {}


def a_reader_from_elsewhere(desk: Path) -> dict[str, Any]:
    """Has samples with encoded audio and MIDI, of another library."""
    stored = []
    for number in range(3):
        corpus.write_sound(desk / "one.flac", seconds=2.0, seed=number)
        corpus.write_midi(desk / "one.mid", onsets=np.array([0.0, 0.5]))
        audio, midi = (desk / "one.flac").read_bytes(), (desk / "one.mid").read_bytes()
        stored.append({"flac": audio, "mid": midi, "labels": {"x": float(number)}})
    return {"stored": stored}


def a_reader_on_colab(desk: Path) -> dict[str, Any]:
    """Has a table of ratings, as a spreadsheet would give it."""
    rows = [json.loads(line) for line in (desk / "annotations.jsonl").read_text().splitlines()]
    folder = desk / "content/drive/MyDrive/piano"
    with (folder / "ratings.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["audio", "midi", "start", "end", "piece", *rows[0]["labels"]])
        for row in rows:
            paths = row["audio_path"], row["midi_path"]
            times = row["start_time"], row["end_time"]
            table.writerow([*paths, *times, row["piece"], *row["labels"].values()])
    return {}


# What a document takes for granted.
GIVEN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "docs/colab.md": a_reader_on_colab,
    "docs/faq.md": a_reader_of_the_faq,
    "docs/migrating.md": a_reader_from_elsewhere,
}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_can_be_run_or_says_why_not(document):
    assert not stray_marks(document)
    for block in blocks(document):
        assert block.language in LANGUAGES, block.place
        if block.not_run is not None:
            assert len(block.not_run.split()) > 2, f"{block.place}: a reason, please"


@pytest.mark.filterwarnings("ignore:unclosed file .*tar:ResourceWarning")  # webdataset's
@pytest.mark.parametrize(
    "document", [name for name in DOCUMENTS if name not in ELSEWHERE and blocks(name)]
)
def test_what_a_document_shows_runs(document, desk):
    names: dict[str, Any] = {"__name__": "__main__", "train": lambda batch: None}
    if document in GIVEN:
        names |= GIVEN[document](desk)
    for block in blocks(document):
        if block.not_run is None:
            RUN[block.language](block, desk, names)
    names.clear()
    gc.collect()  # webdataset leaves its tars to it


def run_python(block: Block, desk: Path, names: dict[str, Any]) -> None:
    """Run it after the document's earlier blocks, with the names that they made."""
    exec(compile(placed(block.code, desk), block.place, "exec"), names)


def run_commands(block: Block, desk: Path, names: dict[str, Any]) -> None:
    """Run commands of ours; a block with others has to say why it is not run."""
    for words in commands(placed(block.code, desk)):
        assert words[:2] == ["python", "-m"], f"{block.place}: not ours: {words}"
        module, arguments = words[2], words[3:]
        arguments += SHORT.get((module, arguments[0]), "").split()
        status = importlib.import_module(f"{module}.__main__").main(arguments)
        told = words[3] in ("doctor", "preflight")  # what they find is this machine's
        assert status == 0 or told, f"{block.place}: status {status}: {words}"


def run_json(block: Block, desk: Path, names: dict[str, Any]) -> None:
    """One object a line."""
    for line in block.code.splitlines():
        assert isinstance(json.loads(line), dict), block.place


def run_yaml(block: Block, desk: Path, names: dict[str, Any]) -> None:
    assert yaml.safe_load(block.code), block.place


def read_text(block: Block, desk: Path, names: dict[str, Any]) -> None:
    """Pictures and output: there is nothing to run."""


RUN: dict[str, Callable[[Block, Path, dict[str, Any]], None]] = {
    "python": run_python,
    "sh": run_commands,
    "json": run_json,
    "yaml": run_yaml,
    "text": read_text,
}


def placed(text: str, desk: Path) -> str:
    """A text with the paths of this test in place of a reader's."""
    for place, folder in PLACES.items():
        text = text.replace(place, f"{desk / folder}/")
    return text
