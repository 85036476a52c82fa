"""Augmentation in batches against audiomentations, which takes one clip at a time.

    python benchmarks/augment.py --out build/augment.json

The same transforms with the same ranges, each alone on every clip, and then all of them with
their usual probabilities. Turn by turn, in one process; milliseconds a clip of processor time and
of wall time. audiomentations (extra ``bench``) runs its transforms on one core; torch takes what it
finds, or ``--threads``. Its stretching is another method (Signalsmith's, in C++; ours is the phase
vocoder of torchaudio), and its rooms are read from files and kept.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import audiomentations as peer
import numpy as np
import soundfile
import torch
from machine import describe
from tables import markdown

from trainer import effects
from trainer.augmentation import Augmentation
from trainer.augmenter import Augmenter

RATE, SECONDS = 24000, 10
SETTINGS = Augmentation()
OFF = {f.name: 0.0 for f in fields(Augmentation) if f.name.endswith("_p")}
ALONE = ("stretch", "pitch", "reverb", "filter", "noise", "gain", "polarity")


def main() -> None:
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    clips = np.random.default_rng(0).normal(0, 0.1, (args.clips, RATE * SECONDS))
    clips = clips.astype(np.float32)
    with tempfile.TemporaryDirectory() as rooms:
        theirs = _theirs(Path(rooms))
        found = {name: _compare(name, clips, theirs[name], device, args.rounds) for name in theirs}
    report = {
        "machine": describe("torch", "torchaudio", "audiomentations") | {"device": args.device},
        "command": f"python benchmarks/augment.py --clips {args.clips} --rounds {args.rounds}",
        "ms_per_clip": found,
        "tables": [_table(found)],
        "notes": [],
        "ratios": {
            f"{name}: {kind}, audiomentations / this": round(
                of["audiomentations"][kind] / of["this"][kind], 2
            )
            for name, of in found.items()
            for kind in ("processor", "wall")
        },
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/augment.json"))
    parser.add_argument("--clips", type=int, default=16, help="of a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; default: as it finds")
    return parser.parse_args()


def _compare(
    name: str, clips: Any, transform: Any, device: torch.device, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds a clip by who and by what clock; the first round warms up."""
    alone = OFF | {f"{name}_p": 1.0}
    settings = Augmentation(**alone if name in ALONE else {"max_transforms": len(ALONE)})
    augment = Augmenter(settings, mode="audio", sample_rate=RATE, seed=0)
    batch = _batch(clips, device)

    def in_batches(step: int) -> None:
        augment(batch, epoch=0, step=step, rank=0)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def one_by_one(_: int) -> None:
        for clip in clips:
            transform(clip, sample_rate=RATE)

    ways = {"this": in_batches, "audiomentations": one_by_one}
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for step in range(rounds + 1):
        for way, run in ways.items():
            spent[way].append(_time(run, step))
    return {
        way: {
            clock: round(statistics.median(t[n] for t in times[1:]) / len(clips) * 1e3, 3)
            for n, clock in enumerate(("processor", "wall"))
        }
        for way, times in spent.items()
    }


def _time(run: Callable[[int], None], step: int) -> tuple[float, float]:
    processor, wall = time.process_time(), time.perf_counter()
    run(step)
    return time.process_time() - processor, time.perf_counter() - wall


def _batch(clips: Any, device: torch.device) -> dict[str, torch.Tensor]:
    rows, frames = clips.shape
    return {
        "audio": torch.from_numpy(clips).to(device),
        "audio_frames": torch.full((rows,), frames, device=device),
        "labels": torch.zeros(rows, 3, device=device),
        "weight": torch.ones(rows, device=device),
    }


def _theirs(rooms: Path) -> dict[str, Any]:
    """audiomentations' transforms of the same names, and all as ``Augmentation()`` has them."""
    s = asdict(SETTINGS)
    _write_rooms(rooms)

    def made(p: float | None) -> dict[str, Any]:
        def chance(name: str) -> float:
            return s[f"{name}_p"] if p is None else p

        most = s["pitch_semitones"]
        return {
            "stretch": peer.TimeStretch(*s["stretch_rate"], p=chance("stretch")),
            "pitch": peer.PitchShift(-most, most, p=chance("pitch")),
            "reverb": peer.ApplyImpulseResponse(str(rooms), p=chance("reverb")),
            "filter": peer.OneOf(_filters(s), p=chance("filter")),
            "noise": peer.AddGaussianSNR(*s["noise_snr_db"], p=chance("noise")),
            "gain": peer.Gain(*s["gain_db"], p=chance("gain")),
            "polarity": peer.PolarityInversion(p=chance("polarity")),
        }

    every = peer.Compose(list(made(None).values()))
    return {name: made(1.0)[name] for name in ALONE} | {"all": every}


def _filters(s: dict[str, Any]) -> list[Any]:
    return [
        peer.LowPassFilter(*s["low_pass_hz"], p=1.0),
        peer.HighPassFilter(*s["high_pass_hz"], p=1.0),
        peer.BandPassFilter(*s["band_hz"], p=1.0),
        peer.PeakingFilter(*s["peak_hz"], *s["peak_db"], p=1.0),
    ]


def _write_rooms(folder: Path, count: int = 8) -> None:
    """Impulse responses made as ours are, as the files that audiomentations wants."""
    click = torch.zeros(count, RATE)
    click[:, 0] = 1.0
    made = effects.in_a_room(
        click,
        seconds=torch.linspace(*SETTINGS.reverb_s, count),
        db=torch.linspace(*SETTINGS.reverb_db, count),
        sample_rate=RATE,
        generator=torch.Generator().manual_seed(0),
    )
    for n, room in enumerate(made):
        soundfile.write(folder / f"room-{n}.wav", room.numpy(), RATE)


def _table(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    ways = [(way, clock) for way in ("this", "audiomentations") for clock in ("processor", "wall")]
    return {
        "title": "Milliseconds a clip of ten seconds",
        "columns": ["transform", *(f"{way}, {clock}" for way, clock in ways)],
        "rows": [
            [name, *(f"{of[way][clock]:.2f}" for way, clock in ways)] for name, of in found.items()
        ],
    }


if __name__ == "__main__":
    main()
