"""Do samples of a run decode, and do the fast decoders agree with the reference?"""

import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from loader.audio import decode_window
from loader.finding import Finding
from loader.meta import parse_meta
from loader.recipe import audio_extension, midi_extension
from loader.source import Source, open_source
from loader.stats import Stats
from loader.store import ShardStore
from shards.errors import DataError, DecodeError
from shards.notes import HIGHEST_PITCH, LOWEST_PITCH, read_notes
from shards.pcm import mix_down
from trainer.plan import Plan

SAMPLES = 20
_SHARDS = 5  # that the samples are taken from: opening one may take a second on a mount
_HALF_STEP = 0.5 / 32768  # of 16 bits: rounding differs, samples do not
_LOSSLESS = ("flac", "wav")  # of what else is packed, two decoders may differ by design
_ONSET_S = 1e-3


@dataclass(slots=True)
class Tally:
    """What became of the samples that were looked at.

    Attributes:
        fast_s, reference_s: spent by the loader's decoder and by the reference.
        compared: how many both decoded.
        bad: why a sample cannot be decoded, by where it lies.
        differing: what the decoders do not agree on.
    """

    fast_s: float = 0.0
    reference_s: float = 0.0
    decoded: int = 0
    compared: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    differing: dict[str, str] = field(default_factory=dict)


Compare = Callable[[Tally, str, Mapping[str, bytes]], None]


def check_decoding(plan: Plan) -> Iterator[Finding]:
    """Decode samples of the training split, evenly chosen, each with both decoders."""
    audio, midi = Tally(), Tally()
    if plan.mode != "audio":
        _pretty_midi()  # not to be timed along
    try:
        for where, members in samples(plan):
            if plan.hears:
                _look(audio, where, members, _compare_audio)
            if plan.mode != "audio":
                _look(midi, where, members, _compare_midi)
    except DataError as error:
        yield Finding("fail", "samples", str(error), f"python -m packer verify {plan.url('train')}")
        return
    if plan.hears:
        yield from judge("audio", audio, ("this loader", "soundfile"), plan)
    if plan.mode != "audio":
        yield from judge("MIDI", midi, ("symusic", "pretty_midi"), plan)


def samples(plan: Plan) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Where each of up to 20 samples lies, and its members; parts of shards are read, no more.

    Raises:
        DataError: there is no such dataset, or a shard is damaged.
    """
    source = open_source(plan.url("train"), plan.storage_options)
    store = ShardStore([source], None, Stats())
    try:
        for shard, row in _chosen(source):
            with store.reader(shard) as reader:
                key = reader.members(row)[0].key
                yield f"sample {key} of {reader.name}", reader.read(row)
    finally:
        store.close()


def judge(what: str, tally: Tally, decoders: tuple[str, str], plan: Plan) -> Iterator[Finding]:
    """What a tally says."""
    fast, reference = decoders
    if tally.bad:
        where, why = next(iter(tally.bad.items()))
        text = f"{len(tally.bad)} of {tally.decoded + len(tally.bad)} do not decode: {where}: {why}"
        remedy = f"python -m packer verify {plan.url('train')} --repair ANNOTATIONS.jsonl"
        yield Finding("fail", what, text, remedy)
    if tally.differing:
        where, why = next(iter(tally.differing.items()))
        text = f"{fast} and {reference} differ in {len(tally.differing)}: {where}: {why}"
        yield Finding("warn", what, text, "python -m loader doctor")
    if not tally.bad and not tally.differing:
        text = f"{tally.decoded} samples decode"
        if tally.compared:
            ours, theirs = (1e3 * s / tally.compared for s in (tally.fast_s, tally.reference_s))
            text += (
                f", {tally.compared} of them to the same by {fast} ({ours:.2f} ms each) "
                f"and {reference} ({theirs:.2f} ms)"
            )
        yield Finding("ok", what, text)


def _chosen(source: Source) -> Iterator[tuple[int, int]]:
    """Shard and row of the samples: evenly spaced, from a few shards."""
    filled = np.flatnonzero(source.rows)
    shards = filled[np.unique(np.linspace(0, len(filled) - 1, _SHARDS).round().astype(int))]
    each = -(-SAMPLES // len(shards))
    for shard in shards.tolist():
        rows = np.linspace(0, source.rows[shard] - 1, min(each, int(source.rows[shard])))
        for row in rows.round().astype(int).tolist():
            yield shard, row


def _look(tally: Tally, where: str, members: Mapping[str, bytes], compare: Compare) -> None:
    try:
        compare(tally, where, members)
    except DataError as error:
        tally.bad[where] = str(error)
    else:
        tally.decoded += 1


def _compare_audio(tally: Tally, where: str, members: Mapping[str, bytes]) -> None:
    extension = audio_extension(members)
    if extension is None:
        raise DecodeError("has no audio")
    meta = parse_meta(memoryview(members["json"]) if "json" in members else None)
    data = members[extension]
    if extension not in _LOSSLESS:
        rate = meta.sample_rate or 24000
        row = np.empty(max(1, round((meta.audio_s or 1.0) * rate)), np.float32)
        decode_window(
            data, extension, row, sample_rate=rate, at_least=meta.audio_s, stored_rate=rate
        )
        return
    began = time.perf_counter()
    expected, rate = _by_soundfile(data)
    between = time.perf_counter()
    row = np.empty(len(expected), np.float32)
    count = decode_window(data, extension, row, sample_rate=rate, at_least=meta.audio_s)
    tally.fast_s += time.perf_counter() - between
    tally.reference_s += between - began
    tally.compared += 1
    if count != len(expected):
        tally.differing[where] = f"{count} frames and {len(expected)}"
    elif (off := float(np.abs(row - expected).max(initial=0.0))) > _HALF_STEP:
        tally.differing[where] = f"by up to {off:.2g} of full scale"


def _by_soundfile(data: bytes) -> tuple[NDArray[np.float32], int]:
    """(T,) mono and its rate."""
    try:
        frames, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DecodeError(f"soundfile: {error.error_string}") from error
    return mix_down(frames), int(rate)


def _compare_midi(tally: Tally, where: str, members: Mapping[str, bytes]) -> None:
    extension = midi_extension(members)
    if extension is None:
        raise DecodeError("has no MIDI")
    if extension not in ("mid", "midi"):
        return  # a table of notes is read as it is
    began = time.perf_counter()
    table = read_notes(members[extension]).table
    between = time.perf_counter()
    expected = _by_pretty_midi(members[extension])
    tally.reference_s += time.perf_counter() - between
    tally.fast_s += between - began
    tally.compared += 1
    found = table[:, [0, 2]]
    if len(found) != len(expected):
        tally.differing[where] = f"{len(found)} notes and {len(expected)}"
    elif np.abs(found - expected).max(initial=0.0) > _ONSET_S:
        tally.differing[where] = "notes begin at other times"


def _by_pretty_midi(data: bytes) -> NDArray[np.float64]:
    """(N, 2) onset and pitch of the piano's notes, in that order.

    Raises:
        DecodeError: it cannot read the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tempo changes in later tracks
        try:
            file = _pretty_midi().PrettyMIDI(io.BytesIO(data))
        except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
            raise DecodeError(f"pretty_midi: {error}") from error
    rows = [
        (note.start, note.pitch)
        for instrument in file.instruments
        if not instrument.is_drum
        for note in instrument.notes
        if LOWEST_PITCH <= note.pitch <= HIGHEST_PITCH and note.end > note.start
    ]
    return np.array(sorted(rows), dtype=np.float64).reshape(-1, 2)


def _pretty_midi() -> Any:
    """The reference, which takes half a second to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports a package that is to be replaced
        import pretty_midi
    return pretty_midi
