"""Shard sizes on links: when the first batch comes, and how much of the link an epoch uses.

A model with measured parts. Measured here: the processor's seconds that fetching a shard takes
(hash, write, index), as ``a + b * bytes``, and those that decoding a clip takes. Taken from the
recorded run on a slow mount, where there is one: round trips until the first shard is asked for.
Given: the link's bytes a second, its latency, and three transfers at a time, as the loader has.
"""

import json
import resource
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from loader.stage import stage
from shards.index import index_bytes
from shards.manifest import NAME, Manifest, ShardInfo, dump_manifest
from shards.tar import END_OF_ARCHIVE, sample_bytes

MB = 10**6
LINKS_MB_PER_S = (10, 30, 100, 300, 1000)
SHARDS_MB = (1, 4, 16, 32, 64, 128, 256, 512)
MEASURED_MB, QUICK_MEASURED_MB = (1, 4, 16, 64), (1, 16)
COPIED_MB, QUICK_COPIED_MB = 512, 64  # for each size
LATENCY_S = {"Drive": 0.1, "object store": 0.03}
START_TRIPS, SHARD_TRIPS, TRANSFERS = 7.0, 3, 3
DATASET_BYTES = 20e9
SAMPLE_BYTES = 126_000
BATCH = 16
MOUNT = Path(__file__).parent.parent / "results" / "mount.json"


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured.

    Attributes:
        shard_s, byte_s: seconds of the processor a shard, and a byte of it.
        clip_s: seconds to decode a clip.
        start_trips: round trips before the first shard comes.
    """

    shard_s: float
    byte_s: float
    clip_s: float
    start_trips: float


@dataclass(frozen=True, slots=True)
class Link:
    """What shards come over."""

    bytes_per_s: float
    latency_s: float


def measure(work: Path, *, rounds: int, quick: bool, clip_s: float) -> dict[str, Any]:
    """The measured costs, the model's tables, and how it agrees with the recorded mount."""
    sizes = QUICK_MEASURED_MB if quick else MEASURED_MB
    copied = QUICK_COPIED_MB if quick else COPIED_MB
    found = {size: [_copy(work, size, copied) for _ in range(rounds)] for size in sizes}
    medians = [float(np.median(seconds)) for seconds in found.values()]
    byte_s, shard_s = np.polyfit([size * MB for size in sizes], medians, 1).tolist()
    mount = json.loads(MOUNT.read_text()) if MOUNT.exists() else None
    costs = Costs(max(0.0, shard_s), byte_s, clip_s, _start_trips(mount))
    return {
        "cpu_s_by_shard_MB": {str(size): seconds for size, seconds in found.items()},
        "costs": {
            "shard_ms": costs.shard_s * 1e3,
            "ms_per_MB": costs.byte_s * MB * 1e3,
            "decode_ms_per_clip": clip_s * 1e3,
            "start_round_trips": costs.start_trips,
        },
        "links": [
            _row(kind, Link(speed * MB, latency_s), size * MB, costs)
            for kind, latency_s in LATENCY_S.items()
            for speed in LINKS_MB_PER_S
            for size in SHARDS_MB
        ],
        "model / measured, on the mount": None if mount is None else _agreement(mount, costs),
    }


def first_batch_s(link: Link, shard_bytes: float, costs: Costs) -> float:
    """One shard, fetched alone, and a batch of it."""
    trips_s = costs.start_trips * link.latency_s
    return trips_s + shard_bytes / link.bytes_per_s + _after(shard_bytes, costs)


def epoch_s(link: Link, shard_bytes: float, dataset_bytes: float, costs: Costs) -> float:
    """An epoch into an empty cache; decoding keeps up, but for the last shard."""
    cpu_s = costs.shard_s + costs.byte_s * shard_bytes
    transfer_s = SHARD_TRIPS * link.latency_s + shard_bytes / link.bytes_per_s + cpu_s
    steady = min(link.bytes_per_s, TRANSFERS * shard_bytes / transfer_s)
    rest = max(0.0, dataset_bytes - shard_bytes)
    tail_s = shard_bytes / SAMPLE_BYTES * costs.clip_s
    return first_batch_s(link, shard_bytes, costs) + rest / steady + tail_s


def _after(shard_bytes: float, costs: Costs) -> float:
    """From the last byte of the first shard to the first batch."""
    return costs.shard_s + costs.byte_s * shard_bytes + BATCH * costs.clip_s


def _row(kind: str, link: Link, shard_bytes: float, costs: Costs) -> dict[str, Any]:
    alone_s = DATASET_BYTES / link.bytes_per_s
    return {
        "latency": kind,
        "link_MB_per_s": round(link.bytes_per_s / MB),
        "shard_MB": round(shard_bytes / MB),
        "first_batch_s": round(first_batch_s(link, shard_bytes, costs), 3),
        "efficiency": round(alone_s / epoch_s(link, shard_bytes, DATASET_BYTES, costs), 4),
        "threads": round(link.bytes_per_s / SAMPLE_BYTES * costs.clip_s, 1),
    }


def _start_trips(mount: dict[str, Any] | None) -> float:
    """Round trips before the first shard comes, as the recorded run on the mount says."""
    if mount is None:
        return START_TRIPS
    return round(mount["first_batch_beyond_shard_s"] / mount["mount"]["latency_s"], 1)


def _agreement(mount: dict[str, Any], costs: Costs) -> dict[str, float]:
    """The model beside what was measured on a mount of one link and latency."""
    link = Link(mount["mount"]["bytes_per_s"], mount["mount"]["latency_s"])
    data, seconds = mount["dataset"], mount["seconds"]
    shard_bytes = data["tar_bytes"] / data["shards"]
    model = epoch_s(link, shard_bytes, data["tar_bytes"], costs)
    return {"first epoch": round(model / seconds["first epoch, streamed"]["median"], 3)}


def _copy(work: Path, shard_mb: int, copied_mb: int) -> float:
    """Processor seconds a shard, of fetching shards of a size from this disk into a cache."""
    folder, cache = work / f"{shard_mb}-MB", work / "cache"
    count = max(2, copied_mb // shard_mb)
    if not (folder / NAME).exists():
        _write(folder, shard_mb * MB, count)
    shutil.rmtree(cache, ignore_errors=True)
    began = _cpu_s()
    stage(str(folder), cache_dir=cache, progress=False)
    spent = _cpu_s() - began
    shutil.rmtree(cache)
    return spent / count


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _write(folder: Path, shard_bytes: int, count: int) -> None:
    """Shards of noise in samples of a clip's size; links to one, for their content is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).bytes(SAMPLE_BYTES)
    rows = max(1, shard_bytes // SAMPLE_BYTES)
    parts = [sample_bytes(f"clip-{number}", {"flac": noise}) for number in range(rows)]
    data = b"".join(parts) + END_OF_ARCHIVE
    offsets = np.cumsum([0, *map(len, parts)]).astype(np.uint64)
    digest = sha256(data).hexdigest()
    infos = []
    for number in range(count):
        name = f"shard-{number:06d}.tar"
        (folder / f"{name}.idx").write_bytes(index_bytes(offsets))
        if number:
            (folder / name).symlink_to("shard-000000.tar")
        else:
            (folder / name).write_bytes(data)
        infos.append(ShardInfo(name, rows, len(data), digest))
    manifest = Manifest(folder.name, infos, fields={"audio": "flac"}, packer_version="benchmark")
    (folder / NAME).write_bytes(dump_manifest(manifest))
