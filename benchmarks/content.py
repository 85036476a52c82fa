"""Whether what a pipeline delivers is true to the recordings: random segments, checked one by one.

    python benchmarks/content.py build/percepiano/rendered/annotations.jsonl --samples 50

Segments of random start and length are cut out of a corpus with audio and MIDI, packed as FLAC and
streamed. Each is compared with its recording, cut and resampled by torchaudio, and with its MIDI
file as pretty_midi reads it.
"""

import argparse
import json
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pretty_midi
import soundfile
import torch
from numpy.typing import NDArray

from loader import make_pipeline
from loader.backends import import_torchaudio
from packer.build import build
from packer.options import Options

RATE = 24000
BAND_HZ = 10_000  # above it resamplers differ in how they fade towards 12 kHz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    root = args.annotations.parent
    with tempfile.TemporaryDirectory() as folder:
        segments = _segments(args.annotations, Path(folder), args.samples, args.seed)
        build(segments, f"{folder}/shards", root=root, options=Options(sample_rate=RATE))
        options: dict[str, Any] = {"clip_seconds": None, "midi": "notes", "max_notes": 4096}
        fields = ("audio", "midi", "json")
        with make_pipeline(f"{folder}/shards", fields=fields, batch_size=1, **options) as pipe:
            found = [_compare(batch, root) for batch in pipe]
    below, all_, onset, length, wrong = (np.array(column) for column in zip(*found, strict=True))
    print(f"{len(found)} segments; signal to error")
    print(f"below {BAND_HZ} Hz: lowest {below.min():.1f} dB, median {np.median(below):.1f} dB")
    print(f"up to {RATE // 2} Hz: lowest {all_.min():.1f} dB, median {np.median(all_):.1f} dB")
    print(f"onsets off by at most {onset.max() * 1e3:.4f} ms, lengths {length.max() * 1e3:.4f} ms")
    print(f"notes missing, added, or of another pitch or velocity: {wrong.sum()}")


def _segments(annotations: Path, folder: Path, samples: int, seed: int) -> Path:
    """Annotations of random segments, 1 to 10 s long, none of which starts on a round number."""
    rng = np.random.default_rng(seed)
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    chosen = []
    while len(chosen) < samples:
        line = lines[int(rng.integers(len(lines)))]
        last = _notes(annotations.parent / line["midi_path"])[:, 1].max()
        start = float(rng.uniform(0, last - 0.5))
        end = float(min(start + rng.uniform(1, 10), last))
        times = {"start_time": start, "end_time": end}
        kept = {name: line[name] for name in ("audio_path", "midi_path")}
        if _window(_notes(annotations.parent / line["midi_path"]), start, end).size:
            chosen.append(json.dumps(kept | times))
    path = folder / "segments.jsonl"
    path.write_text("\n".join(chosen) + "\n")
    return path


def _compare(batch: dict[str, Any], root: Path) -> tuple[float, float, float, float, int]:
    """Signal to error in dB, in the band and in all, worst onset and length in s, wrong notes."""
    record = batch["json"][0]
    start, end = record["start_time"], record["end_time"]
    expected = _recording(root / record["audio_path"], start, end)
    audio = batch["audio"][0, : batch["audio_frames"][0]].numpy()
    noise = _signal_to_error(audio, expected, BAND_HZ), _signal_to_error(audio, expected, RATE)
    notes = _window(_notes(root / record["midi_path"]), start, end)
    delivered = batch["midi"][0, : batch["midi_notes"][0]].numpy().astype(float)
    if len(notes) != len(delivered):
        return *noise, 0.0, 0.0, abs(len(notes) - len(delivered))
    wrong = int(np.count_nonzero((notes[:, 2:4] != delivered[:, 2:4]).any(axis=1)))
    off = np.abs(notes[:, :2] - delivered[:, :2]).max(axis=0)
    return *noise, float(off[0]), float(off[1]), wrong


def _signal_to_error(
    audio: NDArray[np.float32], expected: NDArray[np.float32], band_hz: int
) -> float:
    """Decibels, counting frequencies up to ``band_hz``."""
    count = min(len(audio), len(expected))
    kept = np.fft.rfftfreq(count, 1 / RATE) <= band_hz
    signal = np.abs(np.fft.rfft(expected[:count]))[kept]
    error = np.abs(np.fft.rfft(audio[:count] - expected[:count]))[kept]
    return 10 * math.log10(float(np.square(signal).sum() / max(np.square(error).sum(), 1e-12)))


def _recording(path: Path, start: float, end: float) -> NDArray[np.float32]:
    """The segment as mono at ``RATE``, by another resampler than the packer's."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    cut = torch.from_numpy(sound[round(start * rate) : round(end * rate)].mean(axis=1))
    resample = import_torchaudio().functional.resample
    resampled: NDArray[np.float32] = resample(
        cut, rate, RATE, lowpass_filter_width=64, rolloff=0.95
    ).numpy()
    return resampled


def _notes(path: Path) -> NDArray[np.float64]:
    """(N, 4) start, end, pitch, velocity of the piano's notes, as pretty_midi reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tempo events in other tracks
        midi = pretty_midi.PrettyMIDI(str(path))
    rows = [(n.start, n.end, n.pitch, n.velocity) for i in midi.instruments for n in i.notes]
    return np.array(rows)


def _window(notes: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """(N, 4) onset and length in the window, pitch, velocity; by onset, then pitch, then length."""
    inside = notes[(notes[:, 0] < end) & (notes[:, 1] > start)]
    onset = np.clip(inside[:, 0], start, end) - start
    length = np.clip(inside[:, 1], start, end) - start - onset
    table = np.stack([onset, length, inside[:, 2], inside[:, 3]], axis=1)
    return table[np.lexsort((table[:, 1], table[:, 2], table[:, 0].round(4)))]


if __name__ == "__main__":
    main()
