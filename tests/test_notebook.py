"""The notebook runs from top to bottom, and Drive is flushed where it must be."""

import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from packer.corpus import write_corpus

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "train_full_model.ipynb"
RATE = 8000


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def tagged(notebook: Any, tag: str) -> Any:
    (cell,) = [one for one in notebook.cells if tag in one.metadata.get("tags", ())]
    return cell


def outputs(notebook: Any) -> str:
    """All that the cells printed."""
    streams = (one.get("text", "") for cell in notebook.cells for one in cell.get("outputs", ()))
    return "".join(streams)


# of the libraries that carry the kernel's messages
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_runs_from_top_to_bottom_on_a_small_corpus(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    annotations = write_corpus(
        tmp_path / "corpus", pieces=4, piece_seconds=4, clip_seconds=1, workers=0, progress=False
    )
    sizes = {"dim": 16, "n_mels": 16, "n_fft": 256}
    options = [
        *(f"--model.{name}={size}" for name, size in sizes.items()),
        f"--data.sample_rate={RATE}",
        "--data.clip_seconds=1.0",
        "--data.batch_size=4",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
    ]
    values = {
        "ANNOTATIONS": str(annotations),
        "SHARDS": str(tmp_path / "shards"),
        "CACHE": str(tmp_path / "cache"),
        "RUNS": str(tmp_path / "runs"),
        "CONFIG": "configs/demo.yaml",
        "SPLIT": "train=0.5,val=0.5",
        "OPTIONS": options,
    }
    parameters = tagged(notebook, "parameters")
    assert set(re.findall(r"^([A-Z_]+)\b", parameters.source, re.MULTILINE)) >= values.keys()
    parameters.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, resources=folder).execute()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"audio", "midi", "fusion"}
    assert all((run / "report.html").exists() for run in (tmp_path / "runs").iterdir())
    said = outputs(notebook)
    assert "pass  training step" in said
    assert "trainer fit --config configs/demo.yaml" in said
    images = [
        one
        for cell in notebook.cells
        for one in cell.get("outputs", ())
        if "image/png" in one.get("data", {})
    ]
    assert len(images) == 1, "the three modes are compared in one plot"


def test_drive_is_mounted_and_flushed_on_colab_alone(notebook, monkeypatch):
    calls = []
    drive = ModuleType("google.colab.drive")
    drive.mount = lambda path: calls.append(f"mount {path}")
    drive.flush_and_unmount = lambda: calls.append("flush")
    colab = ModuleType("google.colab")
    colab.drive = drive
    for name, module in (("google.colab", colab), ("google.colab.drive", drive)):
        monkeypatch.setitem(sys.modules, name, module)
    source = tagged(notebook, "drive").source
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    exec(f"{source}\nflush()", {})
    assert calls == []
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    exec(f"{source}\nflush()", {})
    assert calls == ["mount /content/drive", "flush", "mount /content/drive"]


def test_a_repository_is_cloned_once_however_often_its_cell_is_run(notebook, tmp_path, monkeypatch):
    ran = []

    def run(command: list[str], **options: Any) -> None:
        ran.append("clone" if "clone" in command else command[-1])
        if "clone" in command:
            Path("clavier", "configs").mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    (source,) = [one.source for one in notebook.cells if '"clone"' in one.source]
    names = {"os": os, "sys": sys, "Path": Path, "subprocess": SimpleNamespace(run=run)}
    for _ in range(2):
        exec(source, names | {"REPOSITORY": "https://example.org/clavier"})
        assert Path.cwd() == tmp_path / "clavier"
    assert ran == ["clone", "./clavier[trainer]"]


@pytest.mark.parametrize("work", ["packer", "trainer"])
def test_drive_is_flushed_after_packing_and_after_training(notebook, work):
    """Behind the last of these commands of a cell that writes."""
    writing = {"packer": '"build"', "trainer": '"fit"'}[work]
    (cell,) = [one for one in notebook.cells if f'"{work}", {writing}' in one.source]
    assert cell.source.rindex("flush()") > cell.source.rindex("command(")


def test_it_is_kept_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
