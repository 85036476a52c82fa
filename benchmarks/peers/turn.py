"""One peer in a process of its own: prepares its format, or runs one measurement; prints JSON.

    VENV/bin/python -m benchmarks.peers.turn measure files --folder F --dataset D --workers 2

Imports are not counted, nor is the first clip ever decoded: decoders import more as they begin.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import logging
import os
import pickle
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.decoders import Decode
from benchmarks.peers.meter import cpu_seconds
from benchmarks.peers.setting import BATCH, FLAC, FRAMES, NOTES, USERS, Batch, Loader, Setting
from benchmarks.peers.source import read_clips

FEWEST = 8  # batches before counting begins: what was decoded ahead is then used up
_TOLERANCE = 1e-3  # of a clip's energy


def main() -> None:
    args = _arguments()
    warnings.simplefilter("ignore")  # of peers, about each other
    logging.basicConfig(level=logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # some of them print
        peer = importlib.import_module(f"benchmarks.peers.wiring.{args.peer}")
        setting = Setting(args.folder, args.dataset, args.kind, args.decoders, args.workers)
        result = ACTIONS[args.action](peer, setting, args)
    print(json.dumps(result), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=list(ACTIONS))
    parser.add_argument("peer")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--kind", default=FLAC)
    parser.add_argument("--decoders", default=USERS)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--warm-s", type=float, default=1.0)
    parser.add_argument("--count-s", type=float, default=3.0)
    parser.add_argument("--state", type=Path, help="where a state is written, and read")
    return parser.parse_args()


def prepare(peer: Any, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Write the clips in the peer's format; tell also what it is, in which versions."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    peer.prepare(read_clips(setting.dataset), setting.folder, setting.kind)
    taken = time.perf_counter() - began
    stored = peer.stored(setting) if hasattr(peer, "stored") else setting.folder
    size = sum(path.stat().st_size for path in stored.rglob("*") if path.is_file())
    return {
        "s": taken,
        "bytes_a_sample": size / _samples(setting),
        "versions": {name: metadata.version(name) for name in peer.PACKAGES},
        "resumes": peer.RESUMES,
    }


def probe(peer: Any, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Samples a second by number of workers, one after the other in this process."""
    _warm(peer, setting)
    found = {}
    for workers in peer.WORKERS:
        loader = peer.open_loader(replace(setting, workers=workers))
        batches = _endless(loader)
        if "audio" in (first := next(batches)):
            _check(first, setting)
        found[str(workers)] = _steady(batches, args.warm_s, args.count_s)["samples_per_s"]
        batches.close()
        loader.close()
    return found


def measure(peer: Any, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Time to the first batch, then what it gives in the steady state."""
    _warm(peer, setting)
    began = time.perf_counter()
    loader = peer.open_loader(setting)
    batches = _endless(loader)
    next(batches)
    first_s = time.perf_counter() - began
    found = {"first_s": first_s, **_steady(batches, args.warm_s, args.count_s)}
    batches.close()
    loader.close()
    return found


def save(peer: Any, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Write the state at half an epoch."""
    loader = peer.open_loader(replace(setting, resumable=True))
    half = _samples(setting) // BATCH // 2
    batches = loader.epoch()
    for _ in range(half):
        batch = next(batches)
    args.state.write_bytes(pickle.dumps(loader.state()))
    return {"batches": half, "last": batch["__key__"]}


def resume(peer: Any, setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Time from nothing to the first batch after a saved state."""
    state = pickle.loads(args.state.read_bytes())  # noqa: S301, written above
    _warm(peer, setting)
    began = time.perf_counter()
    loader = peer.open_loader(replace(setting, resumable=True))
    batch = next(loader.resumed(state))
    return {"resumed_s": time.perf_counter() - began, "keys": list(batch["__key__"])}


ACTIONS = {"prepare": prepare, "probe": probe, "measure": measure, "save": save, "resume": resume}


def _steady(batches: Iterator[Batch], warm_s: float, count_s: float) -> dict[str, float]:
    end = time.perf_counter() + warm_s
    for number in itertools.count(1):
        next(batches)
        if time.perf_counter() >= end and number >= FEWEST:
            break
    session = os.getsid(0)
    cpu, began, samples = cpu_seconds(session), time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < count_s:
        samples += len(next(batches)["__key__"])
    used = cpu_seconds(session) - cpu
    return {"samples_per_s": samples / taken, "cpu_s": used / samples, "samples": samples}


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader.epoch()


def _samples(setting: Setting) -> int:
    manifest = json.loads((setting.dataset / "manifest.json").read_text())
    return sum(shard["nsamples"] for shard in manifest["shardlist"])


def _warm(peer: Any, setting: Setting) -> None:
    if setting.kind == FLAC:
        clip = next(read_clips(setting.dataset))
        decoders = getattr(peer, "DECODERS", setting.decoders)
        Decode(decoders).files(clip.key, clip.flac, clip.midi, clip.record)


def _check(batch: Batch, setting: Setting) -> None:
    """Refuse a batch that is not what all have to deliver.

    Raises:
        ValueError: if a shape or a clip's content differs.
    """
    shapes = {name: tuple(batch[name].shape) for name in ("audio", "midi", "labels")}
    if shapes["audio"] != (BATCH, FRAMES) or shapes["midi"] != (BATCH, NOTES, 8):
        raise ValueError(f"not the batch that is due: {shapes}")
    rows = {key: row for row, key in enumerate(batch["__key__"])}
    for clip in read_clips(setting.dataset):
        if clip.key in rows:
            _check_clip(clip, batch, rows.pop(clip.key))
    if rows:
        raise ValueError(f"keys that no clip has: {list(rows)}")


def _check_clip(clip: Any, batch: Batch, row: int) -> None:
    expected = clip.audio.astype(np.float64) / 32768
    audio = batch["audio"][row].double().numpy()[: len(expected)]
    error = float(np.square(audio - expected).sum())
    if error > _TOLERANCE * float(np.square(expected).sum()):
        raise ValueError(f"{clip.key}: other audio than its clip")
    midi = batch["midi"][row].numpy()
    if sorted(midi[: len(clip.tokens), 3]) != sorted(clip.tokens[:, 3]):
        raise ValueError(f"{clip.key}: other pitches than its clip")
    if not np.allclose(batch["labels"][row].numpy(), clip.labels, equal_nan=True):
        raise ValueError(f"{clip.key}: other labels than its clip")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
