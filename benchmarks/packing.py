"""How fast recordings are packed: this packer, a bare loop, and the script that one would write.

    python benchmarks/packing.py --out build/packing.json

A hundred and twenty recordings of five minutes, 44.1 kHz stereo WAV, become ten-second FLAC
segments at 24 kHz. This packer does all of its work, from reading annotations to the manifest, with
two processes; half a second of it is their start, and the cutting of the last group. The bare loop
seeks, reads, mixes, resamples and encodes in two processes that run already, and writes nothing.
The script calls librosa.load, soundfile.write and webdataset's ShardWriter, segment after segment,
in one process, as such scripts do; it is left out where librosa is not installed. How much faster
the bare loop is than the script bounds what a packer of two processes can gain. All run turn by
turn; medians over rounds. What librosa imports at its first call is not counted.
"""

import argparse
import importlib.util
import io
import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from machine import describe
from numpy.typing import NDArray

from packer.audio import pcm16_options
from packer.build import build
from packer.options import Options
from shards.pcm import mix_down, to_int16

SOURCE_RATE, RATE, CLIP_S, PROCESSES = 44_100, 24_000, 10.0, 2
OURS, BARE, SCRIPT = "this packer, 2 processes", "bare loop, 2 processes", "librosa and ShardWriter"


def main() -> None:
    args = _arguments()
    corpus = make_corpus(args.work / f"{args.recordings}x{args.minutes:g}", args)
    packages = ["soundfile", "soxr", "webdataset"]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        contestants: dict[str, Callable[[], int]] = {
            OURS: partial(_ours, corpus, args.work / "ours"),
            BARE: partial(_bare, pool, corpus),
        }
        if importlib.util.find_spec("librosa"):
            contestants[SCRIPT] = partial(_script, corpus, args.work / "script")
            _import_all_of_librosa(corpus.parent / "000.wav")
            packages.append("librosa")
        else:
            print("librosa is not installed: its script is left out")
        rates = _measure(contestants, args.rounds)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    pairs = ((OURS, BARE), (OURS, SCRIPT), (BARE, SCRIPT))
    ratios = {
        f"{one} / {other}": round(medians[one] / medians[other], 2)
        for one, other in pairs
        if other in medians
    }
    sizes = f"--recordings {args.recordings} --minutes {args.minutes:g} --rounds {args.rounds}"
    report = {
        "machine": describe(*packages),
        "command": f"python benchmarks/packing.py {sizes}",
        "figures": {
            name: {"segments/s": {"median": round(medians[name], 1), "all": rates[name]}}
            for name in rates
        },
        "ratios": ratios,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(medians, ratios))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/packing"))
    parser.add_argument("--out", type=Path, default=Path("build/packing.json"))
    parser.add_argument("--recordings", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=5.0, help="length of each")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _measure(contestants: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Segments a second of each contestant in each round."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            segments = run()
            rates[name].append(segments / (time.perf_counter() - began))
    return rates


def make_corpus(folder: Path, args: argparse.Namespace) -> Path:
    """Recordings of struck strings over soft noise, and an annotation for each segment."""
    annotations = folder / "annotations.jsonl"
    if annotations.exists():
        return annotations
    folder.mkdir(parents=True, exist_ok=True)
    tones = [_tone(pitch) for pitch in range(33, 93)]
    clips = int(args.minutes * 60 / CLIP_S)
    lines = []
    for number in range(args.recordings):
        name = f"{number:03d}.wav"
        sound = _music(number, round(args.minutes * 60 * SOURCE_RATE), tones)
        soundfile.write(folder / name, sound, SOURCE_RATE, subtype="PCM_16")
        for clip in range(clips):
            times = {"start_time": clip * CLIP_S, "end_time": (clip + 1) * CLIP_S}
            lines.append(json.dumps({"audio_path": name, **times, "labels": {"number": number}}))
    annotations.write_text("\n".join(lines) + "\n")
    return annotations


def _tone(pitch: int) -> NDArray[np.float32]:
    """(frames, 2): a string that sounds for two seconds."""
    times = np.arange(2 * SOURCE_RATE) / SOURCE_RATE
    base = 440 * 2 ** ((pitch - 69) / 12)
    partials = (h for h in range(1, 12) if h * base < SOURCE_RATE / 2)
    sound = sum(np.sin(2 * np.pi * h * base * times) * np.exp(-h * times) / h for h in partials)
    right = pitch / 128
    return (sound[:, None] * np.array([1 - right, right])).astype(np.float32)


def _music(seed: int, frames: int, tones: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(frames, 2) of eight notes a second."""
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal((frames, 2), dtype=np.float32) * np.float32(3e-4)
    for start in rng.integers(0, frames, 8 * frames // SOURCE_RATE):
        tone = tones[rng.integers(len(tones))]
        room = sound[start : start + len(tone)]
        room += tone[: len(room)] * np.float32(rng.uniform(0.01, 0.1))
    return sound


def _ours(annotations: Path, out: Path) -> int:
    shutil.rmtree(out, ignore_errors=True)
    options = Options(sample_rate=RATE)
    (built,) = build(annotations, str(out), options=options, workers=PROCESSES, progress=False)
    return built.manifest.samples


def _bare(pool: Any, annotations: Path) -> int:
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    paths = sorted({line["audio_path"] for line in lines})
    jobs = [annotations.parent / path for path in paths]
    return sum(pool.imap_unordered(_encode_segments, jobs))


def _encode_segments(path: Path) -> int:
    """Encode all segments of a recording, and keep none; how many."""
    count = 0
    with soundfile.SoundFile(path) as file:
        frames = round(CLIP_S * file.samplerate)
        for start in range(0, file.frames - frames + 1, frames):
            file.seek(start)
            mono = mix_down(file.read(frames, dtype="float32", always_2d=True))
            samples = to_int16(soxr.resample(mono, file.samplerate, RATE))
            soundfile.write(io.BytesIO(), samples, RATE, **pcm16_options("flac"))
            count += 1
    return count


def _import_all_of_librosa(recording: Path) -> None:
    import librosa

    librosa.load(recording, sr=RATE, duration=1.0)


def _script(annotations: Path, out: Path) -> int:
    import librosa  # heavy, as torch is, and processes import what this file imports
    import webdataset

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    count = 0
    with webdataset.ShardWriter(f"{out}/%06d.tar", maxsize=32e6, verbose=0) as writer:
        for number, text in enumerate(annotations.read_text().splitlines()):
            line = json.loads(text)
            sound, _ = librosa.load(
                annotations.parent / line["audio_path"],
                sr=RATE,
                offset=line["start_time"],
                duration=line["end_time"] - line["start_time"],
            )
            target = io.BytesIO()
            soundfile.write(target, sound, RATE, format="FLAC")
            writer.write({"__key__": f"{number:06d}", "flac": target.getvalue(), "json": line})
            count += 1
    return count


def _table(medians: dict[str, float], ratios: dict[str, float]) -> str:
    lines = ["| what | segments/s |", "| --- | --- |"]
    lines += [f"| {name} | {rate:.1f} |" for name, rate in medians.items()]
    lines += ["", "| ratio | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {ratio:.2f} |" for name, ratio in ratios.items()])


if __name__ == "__main__":
    main()
