"""OctupleMIDI: eight integers a note (Zeng et al., "MusicBERT", 2021), for one piano."""

import numpy as np
from numpy.typing import NDArray

from shards.notes import LOWEST_PITCH, NoteTable

COLUMNS = ("type", "beat", "position", "pitch", "duration", "velocity", "instrument", "bar")
POSITIONS_PER_BEAT = 16
DURATIONS_PER_S = 100
MAX_DURATION = 127
MAX_BAR = 511


def octuple(table: NoteTable) -> NDArray[np.int64]:
    """Tokens of a note table.

    Args:
        table: (N, 6) float64 notes, ``shards.notes.COLUMNS``.

    Returns:
        (N, 8) int64: type 0; beat in the bar; sixteenth of the beat, 0-15; pitch - 21; length in
        hundredths of a second, 1-127; velocity; instrument 0; bar of the window, at most 511.
    """
    tokens = np.zeros((len(table), len(COLUMNS)), dtype=np.int64)
    beat = np.floor(table[:, 5])
    tokens[:, 1] = beat
    tokens[:, 2] = (table[:, 5] - beat) * POSITIONS_PER_BEAT
    tokens[:, 3] = table[:, 2] - LOWEST_PITCH
    tokens[:, 4] = np.clip(np.rint(table[:, 1] * DURATIONS_PER_S), 1, MAX_DURATION)
    tokens[:, 5] = table[:, 3]
    tokens[:, 7] = np.minimum(table[:, 4], MAX_BAR)
    return tokens
