"""Small data for the tests: annotations over made sound and MIDI, packed in a second."""

import json
from pathlib import Path

import numpy as np
import soundfile
import symusic

from packer.build import build
from packer.options import Options

SAMPLE_RATE = 8000


def write_midi(path: Path, *, onsets: np.ndarray, pitch: int = 60) -> None:
    """A file of quarter-second notes at ``onsets`` seconds, 480 ticks a quarter at 120."""
    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, qpm=120))
    track = symusic.Track()
    for number, onset in enumerate(onsets):
        tick = round(float(onset) * 960)
        track.notes.append(symusic.Note(tick, 240, pitch + number % 12, 64 + number % 60))
    score.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    score.dump_midi(str(path))


def write_sound(path: Path, *, seconds: float, sample_rate: int = SAMPLE_RATE, seed: int = 0):
    """A mono recording of soft noise, the same for the same seed."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * sample_rate)), sample_rate)


def write_annotations(
    folder: Path,
    *,
    samples: int,
    seconds: float = 1.0,
    audio: bool = True,
    midi: bool = True,
    labels: bool = True,
) -> Path:
    """One recording a sample, with two labels, of which every fourth sample lacks one."""
    lines = []
    for number in range(samples):
        line = {"piece": f"piece {number % 5}", "number": number}
        if labels:
            odd = None if number % 4 == 3 else number % 2
            line["labels"] = {"rank": number / samples, "odd": odd}
        if audio:
            line["audio_path"] = f"audio/{number:04d}.wav"
            write_sound(folder / line["audio_path"], seconds=seconds, seed=number)
        if midi:
            line["midi_path"] = f"midi/{number:04d}.mid"
            onsets = np.arange(1 + number % 3) * 0.25
            write_midi(folder / line["midi_path"], onsets=onsets, pitch=40 + number % 40)
        lines.append(json.dumps(line))
    path = folder / "annotations.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_dataset(
    folder: Path, *, samples: int = 50, shard_samples: int = 10, **annotations: object
) -> Path:
    """A dataset of about ``samples / shard_samples`` shards; audio stays at SAMPLE_RATE."""
    path = write_annotations(folder, samples=samples, **annotations)
    options = Options(sample_rate=SAMPLE_RATE, shard_bytes=1)
    size = (
        sum((folder / "audio" / f"{n:04d}.wav").stat().st_size for n in range(samples))
        if (annotations.get("audio", True))
        else 3000 * samples
    )
    options = Options(sample_rate=SAMPLE_RATE, shard_bytes=max(1, size * shard_samples // samples))
    build(path, str(folder / "shards"), options=options, workers=0, progress=False)
    return folder / "shards"
