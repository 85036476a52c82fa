"""A batch while it is being filled: arrays with a row for each sample, then a dict of tensors."""

import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loader.buffers import BufferPool
from loader.recipe import Recipe

Batch = dict[str, Any]


class TransformError(Exception):
    """A transform returned something else than the sample that it was given."""


class Rows:
    """The arrays of one batch of ``size`` rows; each is filled, once, or made a blank.

    Large arrays are leased from the pool, small ones made afresh, so that keeping the labels of
    an epoch does not keep its audio.
    """

    def __init__(self, recipe: Recipe, pool: BufferPool, size: int, *, frames: int) -> None:
        self.audio: NDArray[Any] | None = None
        self.midi: NDArray[Any] | None = None
        self.labels: NDArray[np.float32] | None = None
        if "audio" in recipe.fields:
            self.audio = pool.lease((size, frames), recipe.audio_dtype)
        if "midi" in recipe.fields:
            dtype = np.int64 if recipe.midi == "octuple" else np.float32
            self.midi = pool.lease((size, recipe.max_notes, recipe.note_width), dtype)
            self.midi[:] = 0  # at once: most of it is padding
        if "labels" in recipe.fields:
            self.labels = np.empty((size, len(recipe.dimensions)), dtype=np.float32)
        self.audio_frames = np.zeros(size, dtype=np.int64)
        self.midi_notes = np.zeros(size, dtype=np.int64)
        self.weight = np.zeros(size, dtype=np.float32)
        self.keys = [""] * size
        self.json: list[dict[str, Any]] | None = (
            [{} for _ in range(size)] if "json" in recipe.fields else None
        )
        self._extras: dict[str, NDArray[Any]] = {}

    def blank(self, row: int, key: str = "") -> None:
        """Make a row padding: zeros, labels NaN, weight 0."""
        if self.audio is not None:
            self.audio[row] = 0
        if self.midi is not None:
            self.midi[row] = 0
        if self.labels is not None:
            self.labels[row] = np.nan
        if self.json is not None:
            self.json[row] = {}
        self.audio_frames[row] = self.midi_notes[row] = self.weight[row] = 0
        self.keys[row] = key
        for extra in self._extras.values():
            extra[row] = 0

    def fill_beside(
        self,
        row: int,
        midi: NDArray[Any] | None,
        labels: NDArray[np.float32] | None,
        record: dict[str, Any] | None,
    ) -> None:
        """Fill what is not audio of a row that was not filled before."""
        if self.midi is not None and midi is not None:
            self.midi[row, : len(midi)] = midi
            self.midi_notes[row] = len(midi)
        if self.labels is not None:
            self.labels[row] = labels
        if self.json is not None and record is not None:
            self.json[row] = record

    def view(self, row: int) -> dict[str, Any]:
        """The sample in a row, as a transform sees it: its arrays are the batch's own."""
        sample: dict[str, Any] = {"__key__": self.keys[row]}
        if self.audio is not None:
            sample |= {"audio": self.audio[row], "audio_frames": int(self.audio_frames[row])}
        if self.midi is not None:
            sample |= {"midi": self.midi[row], "midi_notes": int(self.midi_notes[row])}
        if self.labels is not None:
            sample["labels"] = self.labels[row]
        if self.json is not None:
            sample["json"] = self.json[row]
        return sample

    def take(self, row: int, before: dict[str, Any], after: object) -> None:
        """Keep what a transform returned for a row.

        Raises:
            TransformError: if it is no dict, lacks a field, an array has another shape or numbers
                that the batch's type cannot hold, or more frames or notes are told than there are.
        """
        if not isinstance(after, dict):
            raise TransformError(f"transform returned {type(after).__name__}, not the sample")
        for name, old in before.items():
            if name not in after:
                raise TransformError(f"transform left out {name!r}")
            if isinstance(old, np.ndarray) and after[name] is not old:
                _replace(name, old, after[name])
        if self.audio is not None:
            most = self.audio.shape[1]
            self.audio_frames[row] = _count("audio_frames", after["audio_frames"], most)
        if self.midi is not None:
            most = self.midi.shape[1]
            self.midi_notes[row] = _count("midi_notes", after["midi_notes"], most)
        if self.json is not None:
            self.json[row] = after["json"]
        for name in after.keys() - before.keys() - {"rng"}:
            self._extra(name, row, after[name])

    @property
    def extras(self) -> dict[str, NDArray[Any]]:
        """A blank row of each field that the transform added."""
        return {name: np.zeros_like(array[0]) for name, array in self._extras.items()}

    def add_extras(self, blanks: dict[str, NDArray[Any]]) -> None:
        """Give a batch of padding the fields that the transform adds to others."""
        for name, blank in blanks.items():
            if name not in self._extras:
                self._extras[name] = np.zeros((len(self.keys), *blank.shape), dtype=blank.dtype)

    def to_batch(self, source: NDArray[np.int64] | None) -> Batch:
        """The batch as the contract has it; tensors share the rows' memory."""
        batch: Batch = {}
        if self.audio is not None:
            batch |= {"audio": self.audio, "audio_frames": self.audio_frames}
        if self.midi is not None:
            batch |= {"midi": self.midi, "midi_notes": self.midi_notes}
        if self.labels is not None:
            batch["labels"] = self.labels
        batch |= {"weight": self.weight} | self._extras
        if source is not None:
            batch["source"] = source
        tensors: Batch = {name: torch.from_numpy(array) for name, array in batch.items()}
        tensors["__key__"] = self.keys
        if self.json is not None:
            tensors["json"] = self.json
        return tensors

    def _extra(self, name: str, row: int, given: object) -> None:
        """A field that the transform added: stacked, zero where a row has none."""
        value = np.asarray(given)
        if name not in self._extras:
            if not _fits_tensor(value.dtype):
                kind = type(given).__name__
                raise TransformError(f"transform made {name!r} of {kind}: no tensor holds that")
            self._extras[name] = np.zeros((len(self.keys), *value.shape), dtype=value.dtype)
        others = self._extras[name]
        if (value.dtype, value.shape) != (others.dtype, others.shape[1:]):
            raise TransformError(
                f"transform made {name!r} {value.dtype} {value.shape}, but {others.dtype} "
                f"{others.shape[1:]} of another sample"
            )
        others[row] = value


def _replace(name: str, old: NDArray[Any], given: object) -> None:
    """Put what a transform returned for a field in the place of what was there."""
    new = np.asarray(given)
    if new.shape != old.shape:
        raise TransformError(
            f"transform changed the shape of {name!r} from {old.shape} to {new.shape}"
        )
    if not np.can_cast(new.dtype, old.dtype, "same_kind"):
        raise TransformError(f"transform made {name!r} {new.dtype}; {old.dtype} is due")
    if np.can_cast(new.dtype, old.dtype):
        old[...] = new
    elif not _put_narrower(old, new):
        raise TransformError(
            f"transform made {name!r} {new.dtype} of {np.nanmin(new)} to {np.nanmax(new)}, "
            f"more than the {old.dtype} of a batch holds"
        )


def _put_narrower(old: NDArray[Any], new: NDArray[Any]) -> bool:
    """Put numbers in the place of others of a narrower type; False if that cannot hold them.

    What is infinite before stays so.
    """
    if old.dtype.kind == "f":
        try:
            with np.errstate(over="raise"):
                old[...] = new
        except FloatingPointError:
            return False
        return True
    least, most = np.iinfo(old.dtype).min, np.iinfo(old.dtype).max
    if new.size and not least <= new.min() <= new.max() <= most:
        return False
    old[...] = new
    return True


def _count(name: str, given: object, most: int) -> int:
    """How many frames or notes of a row are sound, as a transform told it."""
    try:
        count = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if not 0 <= count <= most:
        raise TransformError(f"transform made {name!r} {given!r}; 0 to {most} is due")
    return count


def _fits_tensor(dtype: np.dtype[Any]) -> bool:
    """Whether tensors hold such values; text, objects and numbers of other machines they do not."""
    try:
        torch.from_numpy(np.empty(0, dtype))
    except (TypeError, ValueError):
        return False
    return True
