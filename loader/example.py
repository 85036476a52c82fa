"""One sample: from the bytes of its members into a row of a batch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loader.audio import decode_window, duration_s, require_length
from loader.batch import Rows, TransformError
from loader.fast_decoders import copy_samples
from loader.mapped import MappedReader
from loader.meta import Meta, is_believable, parse_meta
from loader.order import hash_key
from loader.recipe import Recipe, audio_extension, is_audio, midi_extension
from loader.tokens import octuple
from shards.errors import DecodeError, ShardError
from shards.hints import hint_at_members, listed
from shards.keys import key_hash
from shards.notes import COLUMNS, Notes, read_notes
from shards.npy import npy_view
from shards.reader import ShardReader
from shards.tar import Member
from shards.values import LARGEST_LABEL

_LARGEST_TOKEN = np.iinfo(np.int16).max
_SPAN = 65536  # bytes between two members that are read along rather than skipped


@dataclass(frozen=True, slots=True)
class Example:
    """A sample as it is stored.

    Attributes:
        members: bytes by extension; views of the scratch memory it was read into.
        meta: what its JSON says.
    """

    key: str
    members: Mapping[str, memoryview]
    meta: Meta


@dataclass(frozen=True, slots=True)
class Facts:
    """A sample but for its audio, which is all that decoding changes from epoch to epoch.

    Attributes:
        start: first frame of the window, at the recipe's rate.
        length: frames of the whole sample at that rate; None where nothing depends on it.
        audio_s: seconds of audio that were packed; 0 where it is not said.
        stored_rate: Hz of the audio as packed; None where it is not said.
        midi: (n, 8) int16 tokens or (n, 6) float32 notes of the window, if they are asked for.
        labels: (D,) float32, if they are asked for.
        left_out: how many notes ``midi`` lacks because they are not the piano's.
        record: the JSON, if it is asked for.
    """

    key: str
    start: int
    length: int | None
    audio_s: float
    stored_rate: int | None
    midi: NDArray[Any] | None
    labels: NDArray[np.float32] | None
    left_out: int
    record: dict[str, Any] | None


class Scratch:
    """Memory that one thread reads samples into, again and again."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def take(self, size: int) -> memoryview:
        if len(self._memory) < size:
            self._memory = memoryview(bytearray(size + size // 2))
        return self._memory[:size]


class Clock:
    """Seconds by stage, of one batch."""

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "audio": 0.0, "midi": 0.0}
        self._last = 0.0

    def restart(self) -> None:
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap, or restart, to a stage."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


def read_example(reader: ShardReader, row: int, recipe: Recipe, scratch: Scratch) -> Example:
    """Read what the recipe wants of a sample: in one read, but for large members in between.

    Raises:
        ShardError: if the shard is damaged there.
        DecodeError: if the sample's JSON is.
    """
    members = reader.members(row)
    found = _read(reader, [m for m in members if recipe.wants(m.extension)], scratch)
    return Example(members[0].key, found, parse_meta(found.get("json")))


class SampleDecoder:
    """Decodes samples of one epoch, in two steps: all that is small first, then the audio.

    Small steps of many samples in a row find their code in the processor's caches; between the
    decoding of two clips they would take three times as long.
    """

    def __init__(self, recipe: Recipe, scratch: Scratch, *, epoch: int) -> None:
        self.clock = Clock()
        self._recipe, self._scratch, self._epoch = recipe, scratch, epoch

    def facts(self, reader: ShardReader, row: int, *, packed: bool = False) -> Facts:
        """Read and decode a sample but for its audio.

        Args:
            packed: the packer made the shard: a sample without JSON is damaged.

        Raises:
            ShardError: if the shard is damaged there.
            DecodeError: if JSON or MIDI is, MIDI that was asked for is missing, or a label is
                beyond float32.
        """
        self.clock.restart()
        recipe = self._recipe
        if "audio" in recipe.fields:
            reader.expect(row)
        members = reader.members(row)
        small = [m for m in members if recipe.wants(m.extension) and not is_audio(m.extension)]
        found = _read(reader, small, self._scratch)
        if packed and "json" not in found:
            raise ShardError(f"{reader.name}: sample {row} has no JSON: is its index its own?")
        example = Example(members[0].key, found, parse_meta(found.get("json")))
        if "audio" in recipe.fields:
            _audio_member(members)  # or a row would be as long as JSON likes
        if recipe.needs_length and not _tells_length(example.meta, members):
            example = read_example(reader, row, recipe, self._scratch)
        self.clock.lap("read")
        facts = _facts(example, recipe, self._epoch)
        self.clock.lap("midi")
        return facts

    def fill_audio(
        self, rows: Rows, row: int, facts: Facts, reader: ShardReader, stored: int
    ) -> None:
        """Decode the audio of the shard's row ``stored`` into a row.

        Raises:
            ShardError: if the shard is damaged there.
            DecodeError: if the audio is, or there is none.
        """
        assert rows.audio is not None
        self.clock.restart()
        rows.audio_frames[row] = self._audio(rows.audio[row], facts, reader, stored)
        reader.forget(stored)
        self.clock.lap("audio")

    def fill(self, rows: Rows, row: int, facts: Facts) -> None:
        """Complete a row whose audio is there.

        Raises:
            ValueError: if the transform does not return what it must; it names the sample.
        """
        rows.keys[row] = facts.key
        rows.fill_beside(row, facts.midi, facts.labels, facts.record)
        rows.weight[row] = 1
        if self._recipe.transform is not None:
            _transform(rows, row, facts.key, self._recipe, self._epoch)

    def _audio(self, out: NDArray[Any], facts: Facts, reader: ShardReader, stored: int) -> int:
        """Decode the window into ``out``; how many of its frames are sound."""
        if isinstance(reader, MappedReader) and (pcm := reader.pcm(stored)) is not None:
            require_length(len(pcm), self._recipe.sample_rate, facts.audio_s)
            count = copy_samples(pcm[facts.start :], out)
            out[count:] = 0
            return count
        member = _audio_member(reader.members(stored))
        data = self._scratch.take(member.size)
        reader.read_into(data, member.start)
        self.clock.lap("read")
        return decode_window(
            data,
            member.extension,
            out,
            sample_rate=self._recipe.sample_rate,
            start=facts.start,
            at_least=facts.audio_s,
            stored_rate=facts.stored_rate,
        )


def _audio_member(members: Sequence[Member]) -> Member:
    """The member that is decoded as audio.

    Raises:
        DecodeError: if there is none.
    """
    found = {member.extension: member for member in members}
    extension = audio_extension(found)
    if extension is None:
        hint = hint_at_members(members[0].key, found)
        reason = f"has no audio; its members: {listed(found)}"
        raise DecodeError(f"{reason}; {hint}" if hint else reason)
    return found[extension]


def _facts(example: Example, recipe: Recipe, epoch: int) -> Facts:
    length = whole_frames(example, recipe) if recipe.needs_length else None
    start = _crop_start(example.key, length, recipe, epoch)
    midi, left_out = _midi(example, recipe, start) if "midi" in recipe.fields else (None, 0)
    return Facts(
        example.key,
        start,
        length,
        example.meta.audio_s,
        example.meta.sample_rate,
        midi,
        _labels(example, recipe) if "labels" in recipe.fields else None,
        left_out,
        dict(example.meta.record) if "json" in recipe.fields else None,
    )


def _read(reader: ShardReader, wanted: Sequence[Member], scratch: Scratch) -> dict[str, memoryview]:
    memory, found, used = scratch.take(sum(_SPAN + m.size for m in wanted)), {}, 0
    for run in _runs(wanted):
        start, stop = run[0].start, run[-1].start + run[-1].size
        reader.read_into(memory[used : used + stop - start], start)
        for member in run:
            at = used + member.start - start
            found[member.extension] = memory[at : at + member.size]
        used += stop - start
    return found


def _runs(members: Sequence[Member]) -> list[list[Member]]:
    """Members in runs that lie close enough together to be read at once."""
    runs: list[list[Member]] = []
    for member in members:
        last = runs[-1][-1] if runs else None
        if last is not None and member.start - (last.start + last.size) <= _SPAN:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def whole_frames(example: Example, recipe: Recipe) -> int:
    """Frames, at the recipe's rate, of the whole sample."""
    return round(_duration(example, recipe) * recipe.sample_rate)


def _midi(example: Example, recipe: Recipe, start: int) -> tuple[NDArray[Any], int]:
    """Tokens or notes of the window, and how many notes were left out."""
    extension = midi_extension(example.members)
    if extension is None:
        raise DecodeError(f"has no MIDI; its members: {listed(example.members)}")
    notes = _notes(example, extension, recipe, start)
    kept = notes.table[: recipe.max_notes]
    if recipe.midi == "notes":
        return kept.astype(np.float32), notes.left_out
    with np.errstate(invalid="ignore"):  # what is too large for an integer becomes the least of all
        tokens = octuple(kept)
    for extreme in (tokens.min(initial=0), tokens.max(initial=0)):
        if not -_LARGEST_TOKEN <= extreme <= _LARGEST_TOKEN:
            raise DecodeError(f"has notes of which no tokens can be made: {extreme}")
    return tokens.astype(np.int16), notes.left_out


def _notes(example: Example, extension: str, recipe: Recipe, start: int) -> Notes:
    """The notes of the window that the audio is cropped to."""
    if not start and "notes.npy" in example.members:
        stored = npy_view(example.members["notes.npy"])
        if stored.dtype.kind not in "fiu" or stored.ndim != 2 or stored.shape[1] != len(COLUMNS):
            due = f"numbers [notes, {len(COLUMNS)}]"
            raise DecodeError(f"notes.npy holds {stored.dtype} {stored.shape}; {due} are due")
        table = stored.astype(np.float64)
        if not np.isfinite(table).all():
            raise DecodeError("notes.npy holds what is no finite number")
        last = (table[:, 0] + table[:, 1]).max(initial=0.0)
        if recipe.clip_seconds is None or last <= recipe.clip_seconds:
            return Notes(table, 0)
    if extension == "notes.npy":
        raise DecodeError("notes.npy alone cannot be cropped; the shard needs its .mid as well")
    begin = start / recipe.sample_rate
    end = None if recipe.clip_seconds is None else begin + recipe.clip_seconds
    data, beat = bytes(example.members[extension]), example.meta.midi_beat
    return read_notes(data, start_s=begin, end_s=end, beat=beat)


def _labels(example: Example, recipe: Recipe) -> NDArray[np.float32]:
    own = example.meta.labels
    if recipe.relabels is not None:
        own = {**own, **recipe.relabels.get(example.key, {})}
    row = [own.get(name) for name in recipe.dimensions]
    for value in row:  # a few comparisons take a third of what np.errstate does
        if value is not None and not -LARGEST_LABEL <= value <= LARGEST_LABEL:
            name = recipe.dimensions[row.index(value)]
            raise DecodeError(f"label {name!r} is not finite as float32: {value}")
    return np.array(row, dtype=np.float32)


def _crop_start(key: str, length: int | None, recipe: Recipe, epoch: int) -> int:
    """First frame of the window, at the recipe's rate."""
    if length is None or recipe.clip_frames is None:
        return 0
    room = max(0, length - recipe.clip_frames)
    if recipe.crop == "center":
        return room // 2
    return int(hash_key(recipe.seed, epoch, key_hash(key)) % np.uint64(room + 1))


def _tells_length(meta: Meta, members: Sequence[Member]) -> bool:
    """Whether JSON is enough to know how long a sample is; else its audio has to tell."""
    audio = [member.size for member in members if is_audio(member.extension)]
    return is_believable(meta, max(audio)) if audio else bool(meta.audio_s)


def _duration(example: Example, recipe: Recipe) -> float:
    """Seconds of a sample: of its audio, else as annotated, else to its last note."""
    meta, extension = example.meta, audio_extension(example.members)
    if extension is None:
        if meta.audio_s or meta.duration_s is not None:
            return meta.audio_s or float(meta.duration_s or 0.0)
        return _last_note_s(example)
    data = example.members[extension]
    if is_believable(meta, len(data)):
        return meta.audio_s
    return duration_s(data, extension, stored_rate=meta.sample_rate or recipe.sample_rate)


def _last_note_s(example: Example) -> float:
    extension = midi_extension(example.members)
    if extension not in ("mid", "midi"):
        return 0.0
    table = read_notes(bytes(example.members[extension])).table
    return float((table[:, 0] + table[:, 1]).max(initial=0.0))


def _transform(rows: Rows, row: int, key: str, recipe: Recipe, epoch: int) -> None:
    assert recipe.transform is not None
    sample = rows.view(row)
    rng = np.random.default_rng([recipe.seed, epoch, key_hash(key)])
    try:
        rows.take(row, sample, recipe.transform(sample | {"rng": rng}))
    except TransformError as error:
        raise ValueError(f"sample {key!r}: {error}") from error
    except StopIteration as error:  # or it would end the epoch, as if all samples had come
        raise RuntimeError(f"the transform of sample {key!r} raised StopIteration") from error
    except BaseException as error:
        error.add_note(f"in the transform of sample {key!r}")
        raise
