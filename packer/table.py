"""A table of notes in 32 bits, from which come the very tokens that come from the MIDI file."""

import numpy as np
from numpy.typing import NDArray

from shards.errors import DecodeError
from shards.notes import COLUMNS, NoteTable, read_notes
from shards.npy import npy_bytes, typed_npy_view

_DURATION, _BEAT = 1, 5
_STEPS_PER_S = 100  # tokens count hundredths of a second
_ROUNDING = 1e-6  # what two roundings to 32 bits differ by, and more


def notes_npy(midi: bytes, *, beat: float) -> bytes:
    """The member ``notes.npy`` of a sample: float32 ``[notes, 6]``, ``shards.notes.COLUMNS``.

    Args:
        beat: beat in its bar at the MIDI's start.

    Raises:
        DecodeError: if the MIDI cannot be parsed.
    """
    return npy_bytes(to_float32(read_notes(midi, beat=beat).table))


def check_notes(data: bytes, midi: bytes, *, beat: float) -> None:
    """Raise DecodeError if a ``notes.npy`` is damaged, or not of its MIDI file."""
    found = typed_npy_view(data, dtype=np.float32, columns=len(COLUMNS))
    due = read_notes(midi, beat=beat).table
    if len(found) != len(due):
        raise DecodeError(f"notes.npy has {len(found)} notes, its MIDI has {len(due)}")
    if not np.allclose(found, due, rtol=_ROUNDING, atol=_ROUNDING):
        raise DecodeError("notes.npy holds other notes than its MIDI")


def to_float32(table: NoteTable) -> NDArray[np.float32]:
    """(N, 6) float32 of a (N, 6) float64 table, each number next to what it was.

    Rounding to the nearest could carry a note over the edge of a token. Beats are rounded down:
    sixteenths of a beat are numbers of 32 bits. A duration's edges are not; where the nearest
    number lies beyond one, its neighbour on the other side of the duration does not.
    """
    narrow = table.astype(np.float32)
    beats, lengths = table[:, _BEAT], table[:, _DURATION]
    too_high = narrow[:, _BEAT] > beats
    narrow[too_high, _BEAT] = np.nextafter(narrow[too_high, _BEAT], np.float32(-np.inf))
    moved = _steps(narrow[:, _DURATION].astype(np.float64)) != _steps(lengths)
    away = np.where(narrow[moved, _DURATION] < lengths[moved], np.inf, -np.inf)
    narrow[moved, _DURATION] = np.nextafter(narrow[moved, _DURATION], away.astype(np.float32))
    return narrow


def _steps(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    steps: NDArray[np.float64] = np.rint(seconds * _STEPS_PER_S)
    return steps
