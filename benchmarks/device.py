"""Batches into a GPU: this loader with its side stream against torch's DataLoader with pin_memory.

    python benchmarks/device.py --out build/device.json

In one run, turn by turn: samples and bytes of float32 audio a second that arrive on the device,
and the share of a training's time that goes into waiting for data, with a step that multiplies
matrices for about ``--step-ms``. The DataLoader reads the same decoded tars by their index, with
its best number of workers of those tried.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import decoded_cache, decoded_tars, make_dataset
from machine import describe
from streaming import BATCH, FRAMES, INT16_SCALE
from torch.utils.data import DataLoader, Dataset

from loader import make_pipeline
from shards.npy import npy_view
from shards.reader import ShardReader

_MATRIX = 2048


def main() -> None:
    args = _arguments()
    device = torch.device(args.device)
    dataset = args.dataset or make_dataset(args.work, args.clips)
    with ExitStack() as stack:
        loaders = _loaders(dataset, device, stack)
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        waits: dict[str, list[float]] = {name: [] for name in loaders}
        steps = _steps(device, args.step_ms)
        for number in range(args.rounds + 1):
            for name, loader in loaders.items():
                rate, waiting = _stream(loader, device), _train(loader, device, steps)
                if number:  # the first round warms up
                    rates[name].append(rate)
                    waits[name].append(waiting)
    report = {
        "machine": describe("torch", "numpy") | {"device": _name(device)},
        "command": f"python benchmarks/device.py --clips {args.clips} --rounds {args.rounds}",
        "samples_per_s": {n: round(statistics.median(found), 1) for n, found in rates.items()},
        "gb_per_s": {
            n: round(statistics.median(found) * FRAMES * 4 / 1e9, 3) for n, found in rates.items()
        },
        "waiting_share": {n: round(statistics.median(found), 3) for n, found in waits.items()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"| into {report['machine']['device']} | samples/s | GB/s | waiting |")
    print("| --- | --- | --- | --- |")
    for name in loaders:
        rate, gigabytes = report["samples_per_s"][name], report["gb_per_s"][name]
        print(f"| {name} | {rate:.0f} | {gigabytes:.2f} | {report['waiting_share'][name]:.1%} |")


def _loaders(dataset: Path, device: torch.device, stack: ExitStack) -> dict[str, Iterable[Any]]:
    cores = len(os.sched_getaffinity(0))
    found: dict[str, Iterable[Any]] = {}
    for kind, cache in (("FLAC", {}), ("decoded", decoded_cache(dataset))):
        options: dict[str, Any] = {"num_workers": "auto", "batch_size": BATCH, "device": device}
        pipe = stack.enter_context(make_pipeline(dataset, **cache, **options))
        found[f"this loader, {kind}"] = pipe
    clips = Clips(sorted(decoded_tars(dataset).glob("*.tar")))
    for workers in sorted({1, 2, cores}):
        found[f"DataLoader, decoded, {workers} workers"] = DataLoader(
            clips,
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
    return found


class Clips(Dataset[torch.Tensor]):
    """Decoded clips by number, each (FRAMES,) float32."""

    def __init__(self, tars: list[Path]) -> None:
        self._tars = tars
        self._open: dict[Path, ShardReader] = {}
        self._places = [(tar, row) for tar in tars for row in range(len(ShardReader(tar)))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> torch.Tensor:
        tar, row = self._places[number]
        if tar not in self._open:
            self._open[tar] = ShardReader(tar)
        samples = npy_view(self._open[tar].read(row)["audio.npy"])[:FRAMES]
        clip = np.zeros(FRAMES, np.float32)
        clip[: len(samples)] = samples * np.float32(1 / INT16_SCALE)
        return torch.from_numpy(clip)


def _stream(loader: Iterable[Any], device: torch.device) -> float:
    """Samples a second that arrive."""
    began, samples = time.perf_counter(), 0
    for batch in loader:
        samples += len(_audio(batch, device))
    _wait(device)
    return samples / (time.perf_counter() - began)


def _train(loader: Iterable[Any], device: torch.device, step: Callable[[], None]) -> float:
    """Share of an epoch's time that is waiting for batches while steps are computed."""
    began, waited, before = time.perf_counter(), 0.0, time.perf_counter()
    for batch in loader:
        _audio(batch, device).square().mean()
        _wait(device)
        waited += time.perf_counter() - before
        step()
        _wait(device)
        before = time.perf_counter()
    return waited / (time.perf_counter() - began)


def _audio(batch: Any, device: torch.device) -> torch.Tensor:
    audio: torch.Tensor = batch["audio"] if isinstance(batch, dict) else batch
    return audio.to(device, non_blocking=True)


def _steps(device: torch.device, step_ms: float) -> Callable[[], None]:
    """A step that computes for about so many milliseconds."""
    matrix = torch.rand(_MATRIX, _MATRIX, device=device)
    once = partial(torch.mm, matrix, matrix)
    for _ in range(3):
        once()
    _wait(device)
    began = time.perf_counter()
    for _ in range(5):
        once()
    _wait(device)
    times = max(1, round(step_ms / 1e3 / ((time.perf_counter() - began) / 5)))

    def step() -> None:
        for _ in range(times):
            once()

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "memory"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/streaming"))
    parser.add_argument("--out", type=Path, default=Path("build/device.json"))
    parser.add_argument("--dataset", type=Path, help="a packed dataset, instead of making one")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clips", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=20.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
