"""The arrows of the architecture: who may import whom, and what each may weigh."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import shards

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "shards": {"shards"},
    "packer": {"packer", "shards"},
    "loader": {"loader", "shards"},
    "trainer": {"trainer", "loader", "shards"},
}


def imported(path: Path) -> set[str]:
    """Top-level names a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_point_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        forbidden = imported(path) & ALLOWED.keys() - ALLOWED[package]
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


def test_the_format_needs_little():
    """numpy and the standard library, and symusic for notes alone."""
    for path in (ROOT / "shards").glob("*.py"):
        others = imported(path) - set(sys.stdlib_module_names) - {"shards", "numpy"}
        assert others <= ({"symusic"} if path.name == "notes.py" else set()), path


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_packing_does_not_load_torch():
    assert not loaded_by("packer.__main__") & {"torch", "lightning", "loader"}


def test_loading_does_not_load_encoders_or_references():
    """Nor a torchaudio or torchcodec that may not even import."""
    heavy = {"pretty_midi", "librosa", "audioread", "torchaudio", "torchcodec", "webdataset"}
    assert not loaded_by("loader") & heavy


def test_folders_of_the_names_of_packages_hide_none_of_them(tmp_path):
    """A user's ``shards/`` in the working folder, which Python looks through first."""
    for name in ALLOWED:
        (tmp_path / name).mkdir()
    told = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(ALLOWED)}; print(shards.__version__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.strip() == shards.__version__, told.stderr
