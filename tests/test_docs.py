"""The README's figures are the recorded ones, and what it shows runs."""

import importlib
import json
import re

import corpus
import pytest
from snippets import DOCUMENTS, ROOT, blocks

from packer.__main__ import main as packer


@pytest.fixture
def figures(monkeypatch):
    """benchmarks/figures.py, as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("figures")


def test_the_figures_are_those_of_the_recorded_runs(figures):
    for name, text in figures.documents(figures.reports()).items():
        assert text == (ROOT / name).read_text(), f"{name}: run python benchmarks/figures.py"


def test_the_pictures_are_drawn_from_the_recorded_runs(figures):
    found = figures.reports()
    for name, (sources, _) in figures.PICTURES.items():
        stamp = figures.picture.stamp(figures.first(sources, found))
        assert stamp in (ROOT / name).read_text(), f"{name}: run python benchmarks/figures.py"


def test_the_annotation_line_of_the_readme_is_packed(tmp_path):
    (block,) = blocks("README.md", "json")
    line = block.code
    record = json.loads(line)
    corpus.write_sound(tmp_path / record["audio_path"], seconds=10.5)
    corpus.write_midi(tmp_path / record["midi_path"], onsets=[0, 3])
    (tmp_path / "annotations.jsonl").write_text(line)
    command = ["build", str(tmp_path / "annotations.jsonl"), "--out", str(tmp_path / "shards")]
    assert packer([*command, "--workers", "0"]) == 0


@pytest.mark.parametrize("module", ["packer", "loader", "trainer"])
def test_the_commands_of_the_documents_exist(module, capsys):
    text = "".join((ROOT / document).read_text() for document in DOCUMENTS)
    commands = set(re.findall(rf"python -m {module} ([a-z]+)", text))
    assert commands
    main = importlib.import_module(f"{module}.__main__").main
    for command in commands:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert command in capsys.readouterr().out
