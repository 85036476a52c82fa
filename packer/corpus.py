"""Write an annotated corpus of made piano pieces: MIDI, recordings, and ratings of excerpts."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from symusic.core import ScoreTick

from packer.compose import compose_piece
from packer.lines import appearing, write_lines
from packer.ratings import rate
from packer.render import render_midi, write_pcm16
from packer.spread import spread
from packer.synth import SAMPLE_RATE

TONICS = ("C", "D flat", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece to make, all that decides it included."""

    folder: Path
    number: int
    seconds: float
    clip_seconds: float
    seed: int

    @property
    def name(self) -> str:
        return f"piece-{self.number:03d}"


def write_corpus(
    folder: Path,
    *,
    pieces: int = 24,
    piece_seconds: float = 60.0,
    clip_seconds: float = 10.0,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a corpus, the same bytes for the same arguments; return its annotation file.

    ``folder`` gets ``midi/piece-000.mid``, ``audio/piece-000.wav`` (stereo, 44.1 kHz, 16 bit) and,
    last, ``annotations.jsonl``: a line for each of the consecutive windows of each piece, with
    paths relative to ``folder``. Every window lies within its recording.

    Args:
        folder: made when missing; files of the same names are replaced.
        pieces: how many, at least 1.
        piece_seconds: what each piece lasts at least; what is beyond gets no window.
        clip_seconds: length of a window, at most ``piece_seconds``.
        seed: at least 0; piece n depends on it and n, not on how many there are.
        workers: processes; None takes one a core, 0 this one.
        progress: whether to draw a progress bar.

    Raises:
        ValueError: if an argument is outside the ranges above.
    """
    if pieces < 1:
        raise ValueError(f"pieces must be at least 1, got {pieces}")
    if not 0 < piece_seconds < math.inf:
        raise ValueError(f"piece_seconds must be positive and finite, got {piece_seconds}")
    if not 0 < clip_seconds <= piece_seconds:
        raise ValueError(f"clip_seconds must be in (0, {piece_seconds}], got {clip_seconds}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    jobs = [Piece(folder, n, piece_seconds, clip_seconds, seed) for n in range(pieces)]
    made = spread(_make, jobs, workers=workers, label="pieces", progress=progress)
    annotations = folder / "annotations.jsonl"
    write_lines(annotations, [line for lines in made for line in lines])
    return annotations


def windows(seconds: float, *, clip_seconds: float) -> list[tuple[float, float]]:
    """Return consecutive (start, end) in seconds, to the millisecond, all ending by ``seconds``."""
    count = int(seconds / clip_seconds + 1e-9)  # 0.3 / 0.1 is 2.9999999999999996
    edges = [round(i * clip_seconds, 3) for i in range(count + 1)]
    return list(pairwise(edges))


def _make(piece: Piece) -> list[dict[str, Any]]:
    """Write the MIDI and the recording of a piece; return the lines of its windows."""
    rng = np.random.default_rng([piece.seed, piece.number])
    midi = compose_piece(rng, seconds=piece.seconds).dumps_midi()
    score = ScoreTick.from_midi(midi)  # rate and play what the file says
    midi_path, audio_path = f"midi/{piece.name}.mid", f"audio/{piece.name}.wav"
    with appearing(piece.folder / midi_path) as partial:
        partial.write_bytes(midi)
    sound = render_midi(score)
    # Staccato may end before the bar does; the recording goes on until the piece is over.
    missing = max(0, int(np.ceil(piece.seconds * SAMPLE_RATE)) - len(sound))
    sound = np.pad(sound, ((0, missing), (0, 0)))
    write_pcm16(piece.folder / audio_path, sound, audio_format="wav")
    return [
        {
            "audio_path": audio_path,
            "midi_path": midi_path,
            "start_time": start_s,
            "end_time": end_s,
            "piece": piece.name,
            "tonality": tonality(score),
            "labels": rate(score, start_s=start_s, end_s=end_s),
        }
        for start_s, end_s in windows(piece.seconds, clip_seconds=piece.clip_seconds)
    ]


def tonality(score: ScoreTick) -> str:
    """Return the first key signature in words, such as ``E flat minor``."""
    signature = score.key_signatures[0]
    minor = bool(signature.tonality)
    tonic = (signature.key * 7 + (9 if minor else 0)) % 12
    return f"{TONICS[tonic]} {'minor' if minor else 'major'}"
