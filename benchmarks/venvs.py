"""Venvs of libraries that are compared; torch comes first, and nothing may replace it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_DONE = "installed.json"  # written last


class VenvError(Exception):
    """What pip said."""


def make_venv(folder: Path, torch: str, *installs: Sequence[str]) -> Path:
    """The interpreter of a venv, which is made if it is not there as it should be.

    Args:
        torch: its requirement.
        installs: arguments of ``pip install``, one after the other.

    Raises:
        VenvError: if something cannot be installed.
    """
    python, done = folder.absolute() / "bin" / "python", folder / _DONE
    wanted = json.dumps([torch, *(one for each in installs for one in each if one[0] != "-")])
    if not done.exists() or done.read_text() != wanted:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        constraints = folder / "constraints.txt"
        constraints.write_text(f"{torch}\n")
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        for arguments in ([torch], *installs):
            _run([*pip, "--constraint", str(constraints), *arguments])
        done.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    print(" ".join(command[:4]), "...", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise VenvError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
