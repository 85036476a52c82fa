"""Installed packages against what this project asks for, and binaries against PyTorch."""

import importlib
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

from loader.backends import Backend, report
from loader.finding import Finding

_PROJECT = "clavier-data"
_MODULES = {"pyyaml": "yaml"}  # where a package's module has another name


def check_packages() -> Iterator[Finding]:
    """Every package that has to be there: its version, and whether it can be imported."""
    try:
        wanted = list(required(_PROJECT))
    except metadata.PackageNotFoundError:
        text = "not installed, so the versions of the packages are unchecked"
        yield Finding("warn", _PROJECT, text, "pip install --editable .  # in the checkout")
        return
    for requirement in wanted:
        yield judge_package(requirement, _version(requirement.name))


def required(package: str, extras: Iterable[str] = ("",)) -> Iterator[Requirement]:
    """What an installed package asks for, and what the extras that it names ask for.

    Raises:
        PackageNotFoundError: if it is not installed.
    """
    for line in metadata.requires(package) or []:
        wanted, marker = Requirement(line), Requirement(line).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield wanted
            if wanted.extras and _version(wanted.name):
                yield from required(wanted.name, wanted.extras)


def judge_package(wanted: Requirement, found: str | None) -> Finding:
    """Compare a requirement with the version that is installed; None is none."""
    name, extras = wanted.name, f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    remedy = f"pip install '{name}{extras}{wanted.specifier}'"
    if found is None:
        return Finding("fail", name, "not installed", remedy)
    if not wanted.specifier.contains(found, prereleases=True):
        return Finding("fail", name, f"{found}, wanted is {wanted.specifier}", remedy)
    try:
        importlib.import_module(_MODULES.get(name.lower(), name.replace("-", "_")))
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
        text = f"{found}, which does not import: {error}"
        return Finding("fail", name, text, f"pip install --force-reinstall {name}")
    return Finding("ok", name, found)


def check_backends() -> Iterator[Finding]:
    """torchaudio, torchvision and torchcodec, which may be built for another PyTorch."""
    return map(judge_backend, report())


def judge_backend(backend: Backend) -> Finding:
    """None of them has to be there; one that is there and does not load is worth a warning."""
    if backend.version is None:
        return Finding("ok", backend.name, backend.reason)
    if not backend.reason:
        return Finding("ok", backend.name, backend.version)
    return Finding("warn", backend.name, f"{backend.version}: {backend.reason}", backend.remedy)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
