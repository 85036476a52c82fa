"""Makes the venvs of the peers; torch comes first, and nothing that follows may replace it."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.catalog import ALONE, COMMON, OWN, REQUIREMENTS, TORCH

_DONE = "installed.json"  # written last


class VenvError(Exception):
    """What pip said."""


def python_of(venvs: Path, name: str) -> Path:
    """The interpreter of a venv, which is made if it is not there as it should be.

    Raises:
        VenvError: if something cannot be installed.
    """
    if name == OWN:
        return Path(sys.executable)
    folder = venvs / name
    python = folder / "bin" / "python"
    wanted = json.dumps([TORCH, *COMMON, *REQUIREMENTS[name], *ALONE.get(name, ())])
    done = folder / _DONE
    if not done.exists() or done.read_text() != wanted:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        constraints = folder / "constraints.txt"
        constraints.write_text(f"{TORCH}\n")
        install = [str(python), "-m", "pip", "install", "--quiet"]
        _run([*install, TORCH])
        _run([*install, "--constraint", str(constraints), *COMMON, *REQUIREMENTS[name]])
        if name in ALONE:
            _run([*install, "--no-deps", *ALONE[name]])
        done.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    print(" ".join(command[:4]), "...", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise VenvError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
