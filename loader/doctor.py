"""Looks at this machine with a streamer's eyes: what is wrong, and the command that mends it."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from loader.finding import Finding, survive
from loader.machine import check_gpu, check_machine
from loader.places import check_cache, check_drive, check_path

_IMPORT_S = 120.0  # PyTorch, from a cold disk


def examine(paths: Sequence[Path] = ()) -> Iterator[Finding]:
    """Look at packages, decoders, the machine, the cache's disk and the mounts of ``paths``.

    Checks run as their findings are asked for, and none ends the others: what a package does
    when it is imported, or a disk when it is read, is a finding.
    """
    yield from survive("packages", _check_packages, patience_s=_IMPORT_S)
    yield from survive("decoders", _check_codecs)
    yield from survive("machine", check_machine)
    yield from survive("GPU", check_gpu, patience_s=_IMPORT_S)
    yield from survive("cache", check_cache)
    yield from survive("Drive", check_drive)
    for path in paths:
        yield from survive(str(path), partial(check_path, path))


def write_finding(finding: Finding) -> str:
    """A finding as lines for people: its remedy below it."""
    line = f"{finding.state:>4}  {finding.subject}: {finding.text}"
    return f"{line}\n      -> {finding.remedy}" if finding.remedy else line


def summarise(findings: Iterable[Finding]) -> str:
    """How many findings are bad, in a line."""
    states = [finding.state for finding in findings]
    failures, warnings = states.count("fail"), states.count("warn")
    if not failures + warnings:
        return "all is as it should be"
    return f"{failures} to mend, {warnings} to know of; the lines with -> say how"


# Imported by the check itself: a package that is missing or broken is what is looked for.


def _check_packages() -> Iterator[Finding]:
    from loader.packages import check_backends, check_packages

    yield from check_packages()
    yield from check_backends()


def _check_codecs() -> Iterator[Finding]:
    from loader.codecs import check_codecs

    yield from check_codecs()
