"""The one door to optional binary packages, which may have been built for another PyTorch."""

import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NoReturn

log = logging.getLogger(__name__)

# What a binary extension raises when it was linked against other libraries: the dynamic
# loader's OSError, torchaudio's RuntimeError on CUDA versions, an ImportError of a symbol.
_UNLOADABLE = (OSError, RuntimeError, ImportError)
_LAST_TORCHAUDIO = 11  # up to 2.11 its versions are PyTorch's
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Backend:
    """What became of one optional package: usable or not, why, and the command that mends it."""

    name: str
    version: str | None
    works: bool
    reason: str
    remedy: str


def import_torchaudio() -> ModuleType:
    """Import torchaudio, without its binary extension where that one cannot be loaded.

    Its transforms and functionals are Python on top of torch and work either way; what
    needs the extension (forced alignment, the fast IIR filter) raises or runs slower.

    Raises:
        ImportError: torchaudio is not installed, or fails for a reason of its own.
    """
    with _lock:
        try:
            return importlib.import_module("torchaudio")
        except _UNLOADABLE as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "torchaudio":
                line = install_line("torchaudio")
                raise ImportError(f"torchaudio is not installed: {line}") from None
            return _import_without_extension(error)


def import_torchcodec() -> ModuleType:
    """Import ``torchcodec.decoders``.

    Raises:
        ImportError: torchcodec is not installed, or its binary does not load.
    """
    return _import("torchcodec.decoders")


def report() -> tuple[Backend, ...]:
    """Try every optional backend of this module; none of them missing is an error."""
    return (
        _report("torchaudio", import_torchaudio, "python -m trainer needs it"),
        _report("torchvision", partial(_import, "torchvision"), "nothing here needs it"),
        _report("torchcodec", import_torchcodec, "for what neither other decoder reads"),
    )


def install_line(package: str, *, torch_version: str | None = None) -> str:
    """Return the pip command for the build of ``package`` that fits the installed PyTorch.

    Args:
        package: a package of PyTorch's own wheel index.
        torch_version: such as ``2.9.0+cpu``; None looks up the installed one.
    """
    version = torch_version or _version("torch") or ""
    release, _, build = version.partition("+")
    index = f" --index-url INDEX  # PyTorch's wheel index for {build}" if build else ""
    return f"pip install --force-reinstall --no-deps {_pinned(package, release)}{index}"


def _pinned(package: str, torch_release: str) -> str:
    """A package with the version that was built for a PyTorch, where its number tells it."""
    major, _, rest = torch_release.partition(".")
    minor = rest.partition(".")[0]
    if major != "2" or not minor.isdigit():
        return package
    if package == "torchvision":  # 0.15 came with 2.0, and both count on together
        return f"{package}==0.{15 + int(minor)}.*"
    if package == "torchaudio" and int(minor) <= _LAST_TORCHAUDIO:
        return f"{package}==2.{minor}.*"
    return package


class _StandIn(ModuleType):
    """Takes the place of ``torchaudio._extension``: every feature is absent, by name."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("torchaudio._extension")
        self.why = _one_line(error)
        # The real folder, so that the stateless modules inside it can still be imported.
        self.__path__ = _extension_folder()

    def __getattr__(self, name: str) -> object:
        if name.startswith("_IS_") or name == "_SOX_INITIALIZED":
            return False
        if name.startswith("fail_if_no_"):
            return _refuse(self.why)
        if name == "_load_lib":
            return lambda _library: False
        if name == "_check_cuda_version":
            return lambda: None
        raise AttributeError(f"{self.__name__} has no {name!r}: {self.why}")


def _refuse(why: str) -> Callable[[object], Callable[..., NoReturn]]:
    """Return a decorator whose functions raise RuntimeError, naming ``why``."""

    def decorate(_function: object) -> Callable[..., NoReturn]:
        def refuse(*_args: object, **_options: object) -> NoReturn:
            raise RuntimeError(f"torchaudio's binary extension is not loaded: {why}")

        return refuse

    return decorate


def _import(module: str) -> ModuleType:
    """Import a module whose binary may not load; then nothing of its package is left behind."""
    with _lock:
        try:
            return importlib.import_module(module)
        except _UNLOADABLE as error:
            _forget(module.partition(".")[0])
            raise ImportError(_one_line(error)) from error


def _import_without_extension(error: BaseException) -> ModuleType:
    stand_in = _StandIn(error)
    _forget("torchaudio")
    sys.modules[stand_in.__name__] = stand_in
    try:
        torchaudio = importlib.import_module("torchaudio")
    except _UNLOADABLE as again:
        _forget("torchaudio")
        line = install_line("torchaudio")
        raise ImportError(f"torchaudio: {_one_line(again)}; {line}") from again
    # An import that is answered from sys.modules does not bind the name in its package.
    vars(torchaudio)["_extension"] = stand_in
    log.info("torchaudio runs without its binary extension: %s", stand_in.why)
    return torchaudio


def _report(package: str, open_door: Callable[[], ModuleType], use: str) -> Backend:
    version, line = _version(package), install_line(package)
    if importlib.util.find_spec(package) is None:
        reason = f"not installed: optional, {use}"
        return Backend(package, None, works=False, reason=reason, remedy=line)
    try:
        extension = vars(open_door()).get("_extension")
    except ImportError as error:
        reason = _mismatch(_one_line(error))
        return Backend(package, version, works=False, reason=reason, remedy=line)
    if isinstance(extension, _StandIn):
        reason = f"{_mismatch(extension.why)}; its Python transforms work without it"
        return Backend(package, version, works=True, reason=reason, remedy=line)
    return Backend(package, version, works=True, reason="", remedy="")


def _mismatch(why: str) -> str:
    torch_version = _version("torch") or "none"
    return f"its binary does not load beside PyTorch {torch_version} ({why})"


def _one_line(error: BaseException) -> str:
    """Return the first line of what began an error: loaders of libraries append pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _forget(package: str) -> None:
    """Drop a package's modules from ``sys.modules``, so that no half-imported one is left."""
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]


def _extension_folder() -> list[str]:
    spec = importlib.util.find_spec("torchaudio")
    roots = spec.submodule_search_locations if spec else None
    return [str(Path(root) / "_extension") for root in roots or []]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
