"""Looks at this machine with a streamer's eyes: what is wrong, and the command that mends it."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch

from loader.audio import decode_window
from loader.backends import report
from loader.cache import default_folder
from loader.disk import measure
from loader.mounts import file_system, is_local
from shards.errors import DecodeError

State = Literal["ok", "warn", "fail"]

_PACKAGES = ("torch", "numpy", "soundfile", "miniaudio", "symusic", "soxr", "fsspec")
_SLOW_DISK = 100e6  # bytes a second under which a disk holds streaming up
_FREE_BYTES = 10 * 10**9


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``remedy`` is a command, or empty where nothing is wrong."""

    state: State
    subject: str
    text: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(paths: Sequence[Path] = ()) -> list[Finding]:
    """Look at packages, decoders, memory, the cache's disk and the disks or mounts of ``paths``."""
    return [
        *_packages(),
        *_backends(),
        _flac(),
        _cores(),
        _cuda(),
        *_disk(default_folder(), cache=True),
        *(finding for path in paths for finding in _disk(path, cache=False)),
    ]


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding("ok", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding("fail", name, "is not installed", f"pip install {name}")


def _backends() -> Iterator[Finding]:
    """torchaudio and torchcodec: both optional, so never worse than a warning."""
    for backend in report():
        version = backend.version or "not installed"
        text = f"{version}, {backend.reason}" if backend.version and backend.reason else version
        good = backend.works and not backend.reason
        yield Finding("ok" if good else "warn", backend.name, text, backend.remedy)


def _flac() -> Finding:
    """The fast decoder against libsndfile, on a clip made here: equal, and how fast."""
    target = BytesIO()
    noise = np.random.default_rng(0).standard_normal(240_000) * 0.05
    soundfile.write(target, noise, 24000, format="FLAC")
    data, row = target.getvalue(), np.empty(240_000, dtype=np.float32)
    try:
        began = time.perf_counter()
        for _ in range(20):
            decode_window(data, "flac", row, sample_rate=24000)
        rate = 20 / (time.perf_counter() - began)
    except DecodeError as error:
        return Finding("fail", "FLAC", str(error), "pip install --force-reinstall miniaudio")
    expected, _ = soundfile.read(BytesIO(data), dtype="float32")
    if not np.array_equal(row, expected):
        return Finding(
            "fail",
            "FLAC",
            "miniaudio and libsndfile decode a clip to different samples",
            "pip install --force-reinstall miniaudio soundfile",
        )
    return Finding("ok", "FLAC", f"{rate:.0f} ten-second clips a second on one core")


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return Finding("warn", "cores", "1: decoding and training share it")
    return Finding("ok", "cores", str(cores))


def _cuda() -> Finding:
    if torch.cuda.is_available():
        return Finding("ok", "GPU", torch.cuda.get_device_name())
    return Finding("warn", "GPU", f"PyTorch {torch.__version__} finds none")


def _disk(path: Path, *, cache: bool) -> Iterator[Finding]:
    """Type, room and speed of what a path lies on."""
    subject = "cache" if cache else str(path)
    there = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    kind = file_system(there)
    if cache and not is_local(there):
        remedy = "export SHARD_CACHE_DIR=/a/folder/on/a/local/disk"
        yield Finding("fail", subject, f"{path} lies on {kind}, which is no local disk", remedy)
        return
    if not cache and not path.exists():
        yield Finding("fail", subject, "does not exist", _mount_remedy(path))
        return
    free = shutil.disk_usage(there).free
    state: State = "warn" if cache and free < _FREE_BYTES else "ok"
    yield Finding(state, subject, f"{path} on {kind}, {free / 1e9:.1f} GB free")
    yield from _speed(subject, there) if cache else _latency(subject, there)


def _speed(subject: str, folder: Path) -> Iterator[Finding]:
    """Write and read a file where the cache will be."""
    try:
        rate = measure(folder).write
    except OSError as error:
        yield Finding("fail", subject, f"cannot be written: {error}", f"chmod u+w {folder}")
        return
    state: State = "warn" if rate < _SLOW_DISK else "ok"
    yield Finding(state, subject, f"writes {rate / 1e6:.0f} MB/s")


def _latency(subject: str, path: Path) -> Iterator[Finding]:
    """Open and read the first bytes of some files of a folder, or of a file."""
    files = [path] if path.is_file() else [p for p in sorted(path.iterdir())[:8] if p.is_file()]
    seconds = []
    for file in files:
        began = time.perf_counter()
        with file.open("rb") as opened:
            opened.read(4096)
        seconds.append(time.perf_counter() - began)
    if seconds:
        median = sorted(seconds)[len(seconds) // 2]
        yield Finding("ok", subject, f"{median * 1e3:.1f} ms to open and read a file")


def _mount_remedy(path: Path) -> str:
    if path.is_relative_to("/content/drive"):
        return "from google.colab import drive; drive.mount('/content/drive')"
    return f"ls {path.parent}"
