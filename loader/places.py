"""The disk of the cache, and the disks or mounts that data comes from: room, latency, speed."""

import math
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from loader.cache import default_folder
from loader.disk import DiskRate, ReadRate, measure, nearest, sample_reads
from loader.finding import Finding
from loader.room import reserved_bytes
from shards.mounts import file_system, is_local, on_colab

DRIVE = Path("/content/drive")

MOUNT_DRIVE = "from google.colab import drive; drive.mount('/content/drive')  # in a notebook cell"
_SLOW_DISK = 100e6  # bytes a second under which a disk holds streaming up
_SLOW_MOUNT = 5e6
_FILES = 8
_ENTRIES = 64  # a folder on a mount may hold tens of thousands


def check_cache() -> Iterator[Finding]:
    """Where shards are cached: a local disk, with room, that is written and read fast."""
    folder = default_folder()
    there = nearest(folder)
    disk = shutil.disk_usage(there)
    yield judge_cache(folder, file_system(there), free_bytes=disk.free, total_bytes=disk.total)
    if not is_local(there):
        return
    if not os.access(there, os.W_OK):
        text = f"{there} may not be written"
        yield Finding("fail", "cache", text, "export SHARD_CACHE_DIR=/a/folder/of/yours")
        return
    yield judge_disk(measure(there))


def judge_cache(folder: Path, kind: str, *, free_bytes: int, total_bytes: int) -> Finding:
    """The folder of the cache, the file system it lies on, and what is free there."""
    if not is_local(folder):
        remedy = "export SHARD_CACHE_DIR=/a/folder/on/a/local/disk"
        return Finding("fail", "cache", f"{folder} lies on {kind}, which is no local disk", remedy)
    text = f"{folder} on {kind}, {free_bytes / 1e9:.1f} GB free"
    if free_bytes > (reserved := reserved_bytes(total_bytes)):
        return Finding("ok", "cache", text)
    text += f", of which {reserved / 1e9:.1f} GB stay so: nothing is cached without cache_bytes"
    return Finding("warn", "cache", text, "export SHARD_CACHE_DIR=/a/folder/on/a/disk/with/room")


def judge_disk(rate: DiskRate) -> Finding:
    """How fast the cache's disk is."""
    text = f"writes {rate.write / 1e6:.0f} MB/s, reads {rate.read / 1e6:.0f} MB/s"
    if min(rate.write, rate.read) >= _SLOW_DISK:
        return Finding("ok", "cache", text)
    remedy = "export SHARD_CACHE_DIR=/a/folder/on/a/faster/disk"
    return Finding("warn", "cache", text, remedy)


def check_drive() -> Iterator[Finding]:
    """On Colab: whether Drive is mounted."""
    if not on_colab():
        return
    if is_local(DRIVE):
        yield Finding("warn", "Drive", "is not mounted", MOUNT_DRIVE)
    else:
        yield from check_path(DRIVE / "MyDrive")


def check_path(path: Path) -> Iterator[Finding]:
    """A folder or file that is to be read: latency and speed of a few files in it."""
    if not path.exists():
        remedy = MOUNT_DRIVE if path.is_relative_to(DRIVE) else f"ls {path.parent}"
        yield Finding("fail", str(path), "does not exist", remedy)
        return
    kind = file_system(path)
    files = [path] if path.is_file() else list(islice(find_files(path), _FILES))
    if not files:
        yield Finding("warn", str(path), f"on {kind}, with no file to read", f"ls {path}")
        return
    yield judge_reads(path, kind, sample_reads(files), local=is_local(path))


def judge_reads(path: Path, kind: str, rate: ReadRate, *, local: bool) -> Finding:
    """What reading from a path was like; a slow mount is worth staging."""
    text = f"on {kind}, {rate.latency_s * 1e3:.1f} ms to open a file"
    if not math.isnan(rate.bytes_per_s):
        text += f", reads {rate.bytes_per_s / 1e6:.1f} MB/s"
    text += "; read in place" if local else "; shards there go through the cache"
    if not rate.bytes_per_s < (_SLOW_DISK if local else _SLOW_MOUNT):
        return Finding("ok", str(path), text)
    return Finding("warn", str(path), text, f"python -m loader stage {path} --cache-dir DIR")


def find_files(folder: Path, *, depth: int = 3) -> Iterator[Path]:
    """Files in a folder and below it, as the file system gives them: no folder is listed whole."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in islice(entries, _ENTRIES):
            if entry.is_file():
                yield Path(entry.path)
            elif entry.is_dir():
                folders.append(Path(entry.path))
    if depth > 1:
        for inner in folders:
            yield from find_files(inner, depth=depth - 1)
