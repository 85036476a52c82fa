"""Packing files that lie on a slow mount, against its link and against one file after the other.

    python benchmarks/packing_mount.py --out build/packing_mount.json

The mount is ``slowfs``: FUSE, 100 ms a request, one link of 10 MB/s. On it lie ten-second clips,
16-bit mono WAV, in one folder, and their MIDI in another; shards go to the local disk. Three
requests a file are the least: look-up, open, first read. The build is timed as its command is, from
the start of Python to the manifest; between rounds the mount is made anew, so that nothing of it is
cached. The plain loop opens, reads and encodes clip after clip in a process that runs already; it
does a few, and its time for all is extrapolated. What the mount allows is told beside: the time of
all bytes on the link, of all requests with so many threads, and of reading all files with them and
doing nothing else. Medians over rounds that run turn by turn.

Needs a libfuse that passes on look-ups in one folder side by side: see ``slowfs``.
"""

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import symusic
from machine import describe
from slowfs import BYTES_PER_S, LATENCY_S, LIBFUSE, looks_up_in_parallel, mounted

from packer.audio import pcm16_options
from shards.pcm import mix_down, to_int16

CLIP_S, RATE = 10.0, 24_000  # the latter in shards
REQUESTS = 3  # of each file
OURS, READ, LOOP = "this packer", "reading all files", "one file after the other"
BYTES, REQUESTED = "bound: all bytes on the link", "bound: all requests"


def main() -> None:
    args = _arguments()
    if not looks_up_in_parallel():
        raise SystemExit("libfuse is older than 3.17: see slowfs.py for how to have another one")
    corpus = make_corpus(args.work / f"{args.clips}x{args.rate}", args.clips, args.rate)
    names = _sources(corpus)
    contestants: dict[str, Callable[[Path], float]] = {
        OURS: lambda mount: _packed(mount, args.work / "shards", args.io_threads),
        READ: lambda mount: _read([mount / name for pair in names for name in pair], args),
        LOOP: lambda mount: _loop(mount, names[: args.looped]) * len(names) / args.looped,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, run in contestants.items():
            with mounted(corpus) as mount:
                seconds[name].append(run(mount))
            print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
    report = _report(seconds, [corpus / name for pair in names for name in pair], args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/packing_mount"))
    parser.add_argument("--out", type=Path, default=Path("build/packing_mount.json"))
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=24_000, help="Hz of the clips")
    parser.add_argument("--io-threads", type=int, default=16)
    parser.add_argument("--looped", type=int, default=32, help="clips that the plain loop does")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def make_corpus(folder: Path, clips: int, rate: int) -> Path:
    """Clips of fading tones over soft noise, MIDI of the same notes, and their annotations."""
    annotations = folder / "annotations.jsonl"
    if annotations.exists():
        return folder
    lines = []
    for name in ("audio", "midi"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(clips):
        paths = {"audio_path": f"audio/{number:04d}.wav", "midi_path": f"midi/{number:04d}.mid"}
        _write_clip(number, folder / paths["audio_path"], folder / paths["midi_path"], rate)
        lines.append(json.dumps({**paths, "labels": {"number": number}}))
    annotations.write_text("\n".join(lines) + "\n")
    return folder


def _write_clip(seed: int, audio: Path, midi: Path, rate: int) -> None:
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal(round(CLIP_S * rate)) * 3e-4
    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, qpm=120))
    track = symusic.Track()
    times = np.arange(round(0.5 * rate)) / rate
    for start in np.arange(0, CLIP_S - 0.5, 0.125):
        pitch = int(rng.integers(36, 96))
        tone = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * times) * np.exp(-6 * times)
        first = round(start * rate)
        sound[first : first + len(tone)] += 0.1 * tone
        track.notes.append(symusic.Note(round(start * 960), 480, pitch, 64))
    score.tracks.append(track)
    soundfile.write(audio, sound, rate, subtype="PCM_16")
    score.dump_midi(str(midi))


def _sources(corpus: Path) -> list[tuple[str, str]]:
    """Audio and MIDI of each clip, from the corpus."""
    lines = map(json.loads, (corpus / "annotations.jsonl").read_text().splitlines())
    return [(line["audio_path"], line["midi_path"]) for line in lines]


def _packed(mount: Path, out: Path, threads: int) -> float:
    shutil.rmtree(out, ignore_errors=True)
    source = [str(mount / "annotations.jsonl"), "--out", str(out)]
    options = ["--sample-rate", str(RATE), "--io-threads", str(threads)]
    command = [sys.executable, "-m", "packer", "build", *source, *options]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def _read(paths: Sequence[Path], args: argparse.Namespace) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(args.io_threads) as pool:
        for _ in pool.map(lambda path: len(path.read_bytes()), paths):
            pass
    return time.perf_counter() - began


def _loop(mount: Path, names: Sequence[tuple[str, str]]) -> float:
    began = time.perf_counter()
    for audio, midi in names:
        sound, rate = soundfile.read(
            io.BytesIO((mount / audio).read_bytes()), dtype="float32", always_2d=True
        )
        samples = to_int16(soxr.resample(mix_down(sound), rate, RATE))
        soundfile.write(io.BytesIO(), samples, RATE, **pcm16_options("flac"))
        symusic.Score.from_midi((mount / midi).read_bytes())
    return time.perf_counter() - began


def _report(
    seconds: dict[str, list[float]], files: Sequence[Path], args: argparse.Namespace
) -> dict[str, Any]:
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    size = sum(path.stat().st_size for path in files)
    link_s = size / BYTES_PER_S
    requests_s = REQUESTS * LATENCY_S * len(files) / args.io_threads
    bounds = {BYTES: link_s, f"{REQUESTED}, {args.io_threads} threads": requests_s}
    sizes = f"--clips {args.clips} --rate {args.rate} --looped {args.looped}"
    return {
        "machine": describe("soundfile", "soxr", "symusic", "mfusepy"),
        "command": f"python benchmarks/packing_mount.py {sizes} --io-threads {args.io_threads} "
        f"--rounds {args.rounds}",
        "mount": {
            "kind": "FUSE",
            "libfuse": ".".join(map(str, LIBFUSE)),
            "latency_s": LATENCY_S,
            "bytes_per_s": BYTES_PER_S,
        },
        "corpus": {"clips": args.clips, "files": len(files), "bytes": size},
        "looped": args.looped,
        "figures": {
            name: {"s": {"median": round(median, 3), "all": seconds.get(name, [])}}
            for name, median in (medians | bounds).items()
        },
        "ratios": {
            "link / this packer": round(link_s / medians[OURS], 3),
            "reading all files / this packer": round(medians[READ] / medians[OURS], 3),
            "one file after the other / this packer": round(medians[LOOP] / medians[OURS], 2),
        },
    }


def _table(report: dict[str, Any]) -> str:
    clips = report["corpus"]["clips"]
    lines = ["| what | s | clips/s |", "| --- | --- | --- |"]
    for name, units in report["figures"].items():
        seconds = units["s"]["median"]
        told = f"{name}, extrapolated from {report['looped']}" if name == LOOP else name
        lines.append(f"| {told} | {seconds:.2f} | {clips / seconds:.1f} |")
    lines += ["", "| ratio | |", "| --- | --- |"]
    return "\n".join(
        lines + [f"| {name} | {ratio:g} |" for name, ratio in report["ratios"].items()]
    )


if __name__ == "__main__":
    main()
