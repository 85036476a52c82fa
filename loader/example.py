"""One sample: from the bytes of its members into a row of a batch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loader.audio import decode_window, duration_s, npy_view
from loader.batch import Rows, TransformError
from loader.meta import Meta, parse_meta
from loader.order import hash_key
from loader.recipe import Recipe, audio_extension, midi_extension
from loader.tokens import octuple
from shards.errors import DecodeError
from shards.keys import key_hash
from shards.notes import Notes, read_notes
from shards.reader import ShardReader
from shards.tar import Member

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
    wanted = [member for member in members if recipe.wants(member.extension)]
    memory, found, used = scratch.take(sum(_SPAN + m.size for m in wanted)), {}, 0
    for run in _runs(wanted):
        start, stop = run[0].start, run[-1].start + run[-1].size
        reader.read_into(memory[used : used + stop - start], start)
        for member in run:
            at = used + member.start - start
            found[member.extension] = memory[at : at + member.size]
        used += stop - start
    return Example(members[0].key, found, parse_meta(found.get("json")))


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


def fill_row(
    rows: Rows, row: int, example: Example, recipe: Recipe, *, epoch: int, clock: Clock
) -> int:
    """Decode a sample into a row; how many of its notes were left out.

    Raises:
        DecodeError: if a member is damaged, or one that was asked for is missing.
        ValueError: if the transform does not return what it must; the message names the sample.
    """
    rows.keys[row] = example.key
    left_out = _decode(rows, row, example, recipe, epoch, clock)
    rows.weight[row] = 1
    if recipe.transform is not None:
        _transform(rows, row, example.key, recipe, epoch)
    return left_out


def whole_frames(example: Example, recipe: Recipe) -> int:
    """Frames, at the recipe's rate, of the whole sample."""
    return round(_duration(example, recipe) * recipe.sample_rate)


def _decode(
    rows: Rows, row: int, example: Example, recipe: Recipe, epoch: int, clock: Clock
) -> int:
    start, left_out = _crop_start(example, recipe, epoch), 0
    if rows.audio is not None:
        _fill_audio(rows, row, example, recipe, start)
        clock.lap("audio")
    if rows.midi is not None:
        left_out = _fill_midi(rows, row, example, recipe, start)
        clock.lap("midi")
    if rows.labels is not None:
        rows.labels[row] = _labels(example, recipe)
    if rows.json is not None:
        rows.json[row] = dict(example.meta.record)
    return left_out


def _fill_audio(rows: Rows, row: int, example: Example, recipe: Recipe, start: int) -> None:
    assert rows.audio is not None
    extension = audio_extension(example.members)
    if extension is None:
        raise DecodeError(f"has no audio; its members: {', '.join(example.members) or 'none'}")
    rows.audio_frames[row] = decode_window(
        example.members[extension],
        extension,
        rows.audio[row],
        sample_rate=recipe.sample_rate,
        start=start,
        at_least=example.meta.audio_s,
        stored_rate=example.meta.sample_rate,
    )


def _fill_midi(rows: Rows, row: int, example: Example, recipe: Recipe, start: int) -> int:
    assert rows.midi is not None
    extension = midi_extension(example.members)
    if extension is None:
        raise DecodeError(f"has no MIDI; its members: {', '.join(example.members) or 'none'}")
    notes = _notes(example, extension, recipe, start)
    kept = notes.table[: recipe.max_notes]
    rows.midi[row, : len(kept)] = octuple(kept) if recipe.midi == "octuple" else kept
    rows.midi[row, len(kept) :] = 0
    rows.midi_notes[row] = len(kept)
    return notes.left_out


def _notes(example: Example, extension: str, recipe: Recipe, start: int) -> Notes:
    """The notes of the window that the audio is cropped to."""
    if not start and "notes.npy" in example.members:
        table = npy_view(example.members["notes.npy"]).astype(np.float64)
        last = (table[:, 0] + table[:, 1]).max(initial=0.0)
        if recipe.clip_seconds is None or last <= recipe.clip_seconds:
            return Notes(table, 0)
    if extension == "notes.npy":
        raise DecodeError("notes.npy alone cannot be cropped; the shard needs its .mid as well")
    begin = start / recipe.sample_rate
    end = None if recipe.clip_seconds is None else begin + recipe.clip_seconds
    data, beat = bytes(example.members[extension]), example.meta.midi_beat
    return read_notes(data, start_s=begin, end_s=end, beat=beat)


def _labels(example: Example, recipe: Recipe) -> list[float]:
    own = example.meta.labels
    if recipe.relabels is not None:
        own = {**own, **recipe.relabels.get(example.key, {})}
    values = [own.get(name) for name in recipe.dimensions]
    return [float("nan") if value is None else float(value) for value in values]


def _crop_start(example: Example, recipe: Recipe, epoch: int) -> int:
    """First frame of the window, at the recipe's rate."""
    if recipe.clip_frames is None or recipe.crop == "start":
        return 0
    room = whole_frames(example, recipe) - recipe.clip_frames
    if room <= 0:
        return 0
    if recipe.crop == "center":
        return room // 2
    return int(hash_key(recipe.seed, epoch, key_hash(example.key)) % np.uint64(room + 1))


def _duration(example: Example, recipe: Recipe) -> float:
    """Seconds of a sample: of its audio, else as annotated, else to its last note."""
    meta = example.meta
    if meta.audio_s:
        return meta.audio_s
    if extension := audio_extension(example.members):
        data = example.members[extension]
        return duration_s(data, extension, stored_rate=meta.sample_rate or recipe.sample_rate)
    if meta.duration_s is not None:
        return meta.duration_s
    if (extension := midi_extension(example.members)) in ("mid", "midi"):
        table = read_notes(bytes(example.members[extension])).table
        return float((table[:, 0] + table[:, 1]).max(initial=0.0))
    return 0.0


def _transform(rows: Rows, row: int, key: str, recipe: Recipe, epoch: int) -> None:
    assert recipe.transform is not None
    sample = rows.view(row)
    rng = np.random.default_rng([recipe.seed, epoch, key_hash(key)])
    try:
        rows.take(row, sample, recipe.transform(sample | {"rng": rng}))
    except TransformError as error:
        raise ValueError(f"sample {key!r}: {error}") from error
    except BaseException as error:
        error.add_note(f"in the transform of sample {key!r}")
        raise
