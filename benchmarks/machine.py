"""What a figure was measured on and how: machine, commit, versions, command."""

import argparse
import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


def describe(*packages: str) -> dict[str, object]:
    """Date, commit, processor, cores and the versions of some packages."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def code() -> str:
    """What a figure that is kept for a later run was measured of: another code is another figure.

    It is the commit and, if files differ from it, a hash of how; records and documents aside.
    """
    changed = _git("diff", "HEAD", "--", ":/", ":!/benchmarks/results", ":!/docs", ":!/README.md")
    return _head() + (f"+{hashlib.sha256(changed).hexdigest()[:8]}" if changed else "")


def command(script: str, args: argparse.Namespace, **shown: str) -> str:
    """The command that measures the same again, with all options that it was given or has.

    Args:
        script: its beginning.
        shown: names of inputs, in place of their paths. Folders to work in are left out.
    """
    parts = [f"python {script}"]
    for name, value in vars(args).items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value is False or name in ("work", "out", "venv", "venvs"):
            continue
        if value is True:
            parts.append(option)
        elif isinstance(value, list | tuple):
            parts += [option, *map(str, value)]
        else:
            parts += [option, f"{value:g}" if isinstance(value, float) else str(value)]
            parts[-1] = shown.get(name, parts[-1])
    return " ".join(parts)


def _commit() -> str:
    """The commit checked out, with ``+`` behind it if files differ from it."""
    return _head() + ("+" if _git("status", "--porcelain", "-uno") else "")


def _head() -> str:
    return _git("rev-parse", "--short", "HEAD").decode().strip()


def _git(*arguments: str) -> bytes:
    git = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(git, capture_output=True).stdout


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
