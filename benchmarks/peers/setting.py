"""What every peer is given, and what it has to give: clips in, batches out."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BATCH, RATE, FRAMES, NOTES = 16, 24000, 240_000, 512
SHUFFLE = 1000  # samples, wherever a peer has a buffer or a window
SHARD_CLIPS = 64  # in every format, but this project's: that is about 14 MB of FLAC
SEED = 0
# Numbers of workers that are tried, up to one a core.
UP_TO_CORES = tuple(sorted({0, 1, 2, len(os.sched_getaffinity(0))}))

FLAC, DECODED = "flac", "decoded"  # what is stored
USERS, SOUNDFILE, OURS = "users", "soundfile", "ours"  # who decodes FLAC and MIDI

Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clip:
    """One sample, as files and as arrays.

    Attributes:
        flac, midi, record: contents of its audio, its MIDI and its JSON.
        audio: (T,) int16.
        tokens: (N, 8) int16 OctupleMIDI, no more than a batch has room for.
        labels: (D,) float32.
    """

    key: str
    flac: bytes
    midi: bytes
    record: bytes
    audio: NDArray[np.int16]
    tokens: NDArray[np.int16]
    labels: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a peer is opened.

    Attributes:
        folder: what its ``prepare`` wrote.
        dataset: this project's shards, which all formats were made of.
        kind: ``FLAC`` or ``DECODED``.
        decoders: ``USERS``, ``SOUNDFILE`` or ``OURS``; decoded arrays need none.
        workers: processes, or threads where a peer has them; 0 is the caller's thread.
        resumable: whether a state is saved or loaded, where that takes another class of the peer.
    """

    folder: Path
    dataset: Path
    kind: str
    decoders: str
    workers: int
    resumable: bool = False


class Loader(Protocol):
    """An opened peer. Batches have ``__key__``, ``audio``, ``midi`` and ``labels``."""

    def epoch(self) -> Iterator[Batch]:
        """All batches of the next epoch."""

    def state(self) -> Any:
        """Where the running epoch stands: it can be pickled."""

    def resumed(self, state: Any) -> Iterator[Batch]:
        """The rest of that epoch, in another process."""

    def close(self) -> None: ...
