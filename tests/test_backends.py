"""loader.backends: the door to torchaudio opens whatever its binary was built for."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from loader.backends import Backend, import_torchaudio, install_line, report

ROOT = Path(__file__).parent.parent
PACKAGE = {
    "__init__.py": "from . import _extension\nfrom . import functional, transforms\n",
    "_extension/__init__.py": "from .flags import FOUND as _IS_TORCHAUDIO_EXT_AVAILABLE\n{error}\n",
    "_extension/flags.py": "FOUND = True\n",
    "functional.py": (
        "from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align\n"
        "@fail_if_no_align\n"
        "def align(x): return x\n"
    ),
    "transforms.py": "class MelSpectrogram: pass\n",
}
OPEN = """
import sys
from loader.backends import import_torchaudio, report
torchaudio = import_torchaudio()
assert import_torchaudio() is torchaudio
torchaudio.transforms.MelSpectrogram()
assert not torchaudio.functional._IS_TORCHAUDIO_EXT_AVAILABLE
from torchaudio._extension.flags import FOUND
try:
    torchaudio.functional.align(1)
except RuntimeError as error:
    assert "another CUDA" in str(error) or "libc10_cuda.so" in str(error), error
backend = report()[0]
assert backend.works and "does not load beside PyTorch" in backend.reason, backend
assert backend.remedy.startswith("pip install"), backend
"""
UNLOADED = """
import sys
from loader.backends import report
vision = {backend.name: backend for backend in report()}["torchvision"]
assert not vision.works and "torchvision::nms" in vision.reason, vision
assert vision.remedy.startswith("pip install"), vision
assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
"""
CLOSED = """
import loader, trainer.module
from loader.backends import import_torchaudio, report
try:
    import_torchaudio()
except ImportError as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError("the door opened")
backend = report()[0]
assert not backend.works and backend.reason and backend.remedy, backend
"""


def fake_torchaudio(folder: Path, *, error: str, init: str = PACKAGE["__init__.py"]) -> None:
    for name, text in (PACKAGE | {"__init__.py": init}).items():
        path = folder / "torchaudio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{error}", error))


def run(script: str, folder: Path) -> None:
    """Run a script in a fresh interpreter that finds the folder's packages first."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": path}
    )


@pytest.mark.parametrize(
    "error",
    [
        'raise OSError("libc10_cuda.so: cannot open shared object file")',
        'raise RuntimeError("compiled with another CUDA version")',
        'raise ImportError("built for another CUDA: undefined symbol")',
    ],
    ids=["OSError", "RuntimeError", "ImportError"],
)
def test_an_extension_that_does_not_load_is_stood_in_for(tmp_path: Path, error: str):
    fake_torchaudio(tmp_path, error=error)
    run(OPEN, tmp_path)


def test_a_torchaudio_beyond_help_is_an_import_error_and_only_at_the_door(tmp_path: Path):
    fake_torchaudio(tmp_path, error="", init='raise OSError("damaged")\n')
    run(CLOSED, tmp_path)


def test_a_missing_torchaudio_is_an_import_error_with_the_remedy(tmp_path: Path):
    run("import sys; sys.modules['torchaudio'] = None\n" + CLOSED, tmp_path)


def test_a_torchvision_without_its_operators_is_told_and_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/ops.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "torchvision/extension.py").touch()
    (tmp_path / "torchvision/__init__.py").write_text("from torchvision import extension, ops")
    run(UNLOADED, tmp_path)


def test_the_installed_torchaudio_computes_whatever_it_was_built_for():
    if find_spec("torchaudio") is None:
        pytest.skip("torchaudio is not installed")
    torch = pytest.importorskip("torch")
    mel = import_torchaudio().transforms.MelSpectrogram(16000, n_fft=512, n_mels=20)
    assert mel(torch.ones(1, 1600)).shape == (1, 20, 7)


def test_the_report_names_every_backend_and_mends_what_does_not_work():
    backends = report()
    assert [b.name for b in backends] == ["torchaudio", "torchvision", "torchcodec"]
    assert all(isinstance(b, Backend) and (b.works or (b.reason and b.remedy)) for b in backends)


@pytest.mark.parametrize(
    ("version", "package", "end"),
    [
        ("2.9.0+cpu", "torchaudio", " for cpu"),
        ("2.9.0+cu126", "torchaudio", " for cu126"),
        ("2.9.0", "torchaudio", " torchaudio==2.9.*"),
        ("2.13.1", "torchaudio", " torchaudio"),  # its versions ended with 2.11
        ("2.9.0", "torchvision", " torchvision==0.24.*"),
        ("2.13.1", "torchvision", " torchvision==0.28.*"),
        ("2.9.0", "torchcodec", " torchcodec"),
        ("3.0.0", "torchvision", " torchvision"),
    ],
)
def test_the_install_line_fits_the_installed_torch(version: str, package: str, end: str):
    assert install_line(package, torch_version=version).endswith(end)
