"""The README's figures are the recorded ones, and what it shows runs."""

import importlib
import json
import re
import runpy

import corpus
import pytest
from snippets import ROOT, blocks

from packer.__main__ import main as packer


def test_the_figures_are_those_of_the_recorded_runs():
    figures = runpy.run_path(str(ROOT / "benchmarks" / "figures.py"))
    found = figures["reports"]()
    text = (ROOT / "README.md").read_text()
    assert figures["with_figures"](text, found["streaming"]) == text
    assert figures["page"](found) == (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_annotation_line_of_the_readme_is_packed(tmp_path):
    (line,) = blocks("README.md", "json")
    record = json.loads(line)
    corpus.write_sound(tmp_path / record["audio_path"], seconds=10.5)
    corpus.write_midi(tmp_path / record["midi_path"], onsets=[0, 3])
    (tmp_path / "annotations.jsonl").write_text(line)
    command = ["build", str(tmp_path / "annotations.jsonl"), "--out", str(tmp_path / "shards")]
    assert packer([*command, "--workers", "0"]) == 0


def test_the_streaming_example_of_the_readme_runs(tmp_path):
    dataset = corpus.make_dataset(tmp_path, samples=16)
    (code,) = blocks("README.md", "python")
    code = code.replace("/content/drive/MyDrive/shards/train", str(dataset))
    code = code.replace("/content/cache", str(tmp_path / "cache"))
    names: dict = {}
    exec(code, names)  # what a reader would paste
    assert names["batch"]["audio"].shape == (16, 240000)
    names["pipe"].load_state_dict(names["state"])
    names["pipe"].close()


@pytest.mark.parametrize("module", ["packer", "loader", "trainer"])
def test_the_commands_of_the_documents_exist(module, capsys):
    documents = ("README.md", "docs/composing.md")
    text = "".join((ROOT / document).read_text() for document in documents)
    commands = set(re.findall(rf"python -m {module} ([a-z]+)", text))
    assert commands
    main = importlib.import_module(f"{module}.__main__").main
    for command in commands:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert command in capsys.readouterr().out
