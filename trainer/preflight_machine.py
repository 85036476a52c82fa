"""Does the machine have what a run asks for: a GPU, torchaudio, room, a folder to write to?"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from loader.backends import report
from loader.decoded import decoded_bytes
from loader.disk import nearest
from loader.finding import Finding, State
from loader.machine import check_gpu
from loader.places import DRIVE, MOUNT_DRIVE, judge_cache
from loader.room import held_bytes
from loader.source import open_source
from shards.mounts import file_system, is_local, on_colab
from trainer.disk import try_writing
from trainer.plan import Plan
from trainer.preflight_shards import Opened, local_path

_GPU_NAMES = ("gpu", "cuda")
_CHECKPOINTS = 3  # best, last, and the next one while it is written
_VALUES, _BYTES = 3, 4  # AdamW keeps two numbers beside each weight; float32
_COLAB_GPU = "Runtime > Change runtime type > T4 GPU  # in Colab's menu"


def check_device(plan: Plan) -> Iterator[Finding]:
    """Whether the device that the config asks for is there."""
    asked = plan.trainer["accelerator"]
    if torch.cuda.is_available() or asked not in (*_GPU_NAMES, "auto"):
        if asked == "cpu" and torch.cuda.is_available():
            yield Finding("warn", "GPU", "is there, unused", "--trainer.accelerator auto")
            return
        yield from check_gpu()
        return
    why = " ".join(one.text for one in check_gpu())
    if asked == "auto":
        remedy = _COLAB_GPU if on_colab() else ""
        yield Finding("warn" if remedy else "ok", "GPU", f"{why}; training on the CPU", remedy)
        return
    text = f"the config asks for one (trainer.accelerator: {asked}): {why}"
    remedy = _COLAB_GPU if on_colab() else "--trainer.accelerator auto"
    yield Finding("fail", "GPU", text, remedy)


def check_torchaudio(plan: Plan) -> Iterator[Finding]:
    """Whether torchaudio imports beside this PyTorch; models of MIDI alone do without."""
    (found,) = [backend for backend in report() if backend.name == "torchaudio"]
    text = f"{found.version or ''} {found.reason}".strip()
    if found.works:  # without its binary extension, too: features need only its Python
        why = f"has all that training needs: {found.reason}" if found.reason else ""
        yield Finding("ok", "torchaudio", f"{found.version or ''} {why}".strip())
        return
    yield Finding("fail" if plan.hears else "warn", "torchaudio", text, found.remedy)


def check_disk(
    plan: Plan, opened: Mapping[str, Opened], *, parameters: int = 0
) -> Iterator[Finding]:
    """Room for what the cache will hold, and for checkpoints of so many parameters."""
    needed = cache_bytes(plan, opened)
    if needed:
        yield judge_cache_room(plan.cache_dir, needed, least=round(needed * mixed(plan, opened)))
    size = parameters * _VALUES * _BYTES * _CHECKPOINTS
    yield judge_checkpoints(plan.folder, size)


def cache_bytes(plan: Plan, opened: Mapping[str, Opened]) -> int:
    """What the cache has to hold for every epoch after the first to need nothing else."""
    if plan.data["cache"] == "off":
        return 0
    total = 0
    for split, one in opened.items():
        path = local_path(plan.url(split), plan.storage_options)
        mount = plan.data["cache_mount"]
        in_place = path is not None and (is_local(path) if mount is None else not mount)
        total += 0 if in_place else one.manifest.bytes
        if plan.data["cache"] == "decoded":
            source = open_source(plan.url(split), plan.storage_options)
            total += decoded_bytes(source, plan.data["sample_rate"])
    limit: int | None = plan.data["cache_bytes"]
    return total if limit is None else min(total, limit)


def mixed(plan: Plan, opened: Mapping[str, Opened]) -> float:
    """Share of all samples that is in use at a time: the window in which they are mixed."""
    window, samples = plan.data["shuffle"], sum(one.manifest.samples for one in opened.values())
    return 1.0 if window == "full" else min(1.0, max(window, plan.batch_size) / samples)


def judge_cache_room(folder: Path, needed: int, *, least: int) -> Finding:
    """Whether a disk has room for so many bytes of cached shards.

    What lies in the cache counts as room: it is these shards, or makes way for them.

    Args:
        needed: for every epoch after the first to fetch nothing.
        least: in use at the same time.
    """
    there = nearest(folder)
    disk, held = shutil.disk_usage(there), held_bytes(folder)
    if not is_local(there):
        sizes = {"free_bytes": disk.free, "total_bytes": disk.total}
        return judge_cache(folder, file_system(there), **sizes)
    text = f"{_room(needed, disk.free, folder)}, {held / 1e9:.2f} GB of shards there"
    room, remedy = disk.free + held, f"df -h {there}; --data.cache_dir /another/disk"
    if room >= needed + _margin(there):
        return Finding("ok", "cache", text)
    if room < least:
        return Finding("fail", "cache", text, remedy)
    again = "; what does not fit is fetched again in every epoch" if room < needed else ""
    return Finding("warn", "cache", text + again, remedy)


def judge_checkpoints(folder: Path, needed: int) -> Finding:
    """Whether a folder's disk has so many bytes left."""
    there = nearest(folder)
    free = shutil.disk_usage(there).free
    text = _room(needed, free, folder)
    if free >= needed + _margin(there):
        return Finding("ok", "checkpoints", text)
    state: State = "fail" if free < needed else "warn"
    return Finding(state, "checkpoints", text, f"df -h {there}; --out /another/disk/run")


def check_folder(plan: Plan) -> Iterator[Finding]:
    """Whether the run can be written where it is to lie."""
    if plan.folder.absolute().is_relative_to(DRIVE) and is_local(DRIVE):
        text = f"{plan.folder}: Drive is not mounted, and the run would be lost with this machine"
        yield Finding("fail", "run folder", text, MOUNT_DRIVE)
        return
    try:
        try_writing(plan.folder)
    except OSError as error:
        text = f"{plan.folder} cannot be written: {error.strerror}"
        yield Finding("fail", "run folder", text, "--out /a/folder/of/yours")
        return
    yield Finding("ok", "run folder", str(plan.folder))


def _room(needed: int, free: int, folder: Path) -> str:
    kind = file_system(nearest(folder))
    return f"{needed / 1e9:.2f} GB needed, {free / 1e9:.1f} free at {folder} ({kind})"


def _margin(folder: Path) -> int:
    """What a disk should keep free, so that other programs go on."""
    return min(10**9, shutil.disk_usage(folder).total // 10)
