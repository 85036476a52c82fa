"""The venvs of the peers."""

import sys
from pathlib import Path

from benchmarks.peers.catalog import ALONE, COMMON, OWN, REQUIREMENTS, TORCH
from benchmarks.venvs import make_venv


def python_of(venvs: Path, name: str) -> Path:
    """The interpreter of a venv, which is made if it is not there as it should be.

    Raises:
        VenvError: if something cannot be installed.
    """
    if name == OWN:
        return Path(sys.executable)
    installs = [[*COMMON, *REQUIREMENTS[name]]]
    if name in ALONE:
        installs.append(["--no-deps", *ALONE[name]])
    return make_venv(venvs / name, TORCH, *installs)
