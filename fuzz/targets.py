"""What is fed with damaged and hostile bytes: one function each, which raises only over a bug.

A target may refuse its input, with the error that its documentation names. Whatever it takes has to
be sound, and that is asserted: nothing out of range, no other place, the same again.
"""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import seeds

from loader.audio import decode_whole, decode_window, duration_s
from loader.example import SampleDecoder, Scratch
from loader.meta import parse_meta
from loader.recipe import Recipe
from loader.relabel import read_labels
from loader.state import State, resume_from
from loader.tokens import octuple
from shards.errors import AnnotationError, DecodeError, ManifestError, ShardError, StateError
from shards.index import parse_index
from shards.keys import find_key
from shards.manifest import dump_manifest, fingerprint, load_manifest
from shards.notes import cut_midi, parse_midi, read_notes
from shards.npy import npy_view, typed_npy_view
from shards.reader import ShardReader
from shards.schema import Rules, read_annotations
from shards.tar import END_OF_ARCHIVE, sample_bytes, scan

POSITIONS = 50  # samples of the dataset that states are loaded for
LONGEST_MEMBER = 1 << 16


class MemoryTar:
    """A tar in memory."""

    name = "memory.tar"

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def expect(self, start: int, stop: int) -> None: ...

    def forget(self, start: int) -> None: ...

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def read_into(self, buffer: memoryview, offset: int) -> int:
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None: ...


def tar(data: bytes) -> None:
    """Walking the headers of a tar, and reading it sample by sample."""
    file = MemoryTar(data)
    try:
        samples, end = scan(file.read_at)
    except ShardError:
        return
    assert end <= len(data)
    reader = ShardReader(file)
    for row, members in enumerate(samples):
        assert tuple(members) == reader.members(row)
        for member in members:
            assert not member.key.startswith("/")
            assert ".." not in member.key.split("/")
            assert member.start + member.size <= end
        reader.read(row)


def index(data: bytes) -> None:
    """An index beside a tar that is whole, and ``keys.bin``."""
    good = seeds.tar()
    for samples in (3, max(0, len(data) // 8 - 1)):
        try:
            parse_index(data, samples=samples, tar_bytes=len(good), name="index")
            reader = ShardReader(MemoryTar(good), samples=samples, index=data)
            for row in range(len(reader)):
                assert len({member.key for member in reader.members(row)}) == 1
                reader.read(row)
        except ShardError:
            continue
    read_at = MemoryTar(data).read_at
    for shard, row in find_key("k0", read_at=read_at, records=len(data) // 16):
        assert 0 <= shard < 2**32
        assert 0 <= row < 2**32


def manifest(data: bytes) -> None:
    """A manifest, ours or an index of somebody else."""
    try:
        found = load_manifest(data, name="manifest")
    except ManifestError:
        return
    for shard in found.shards:
        assert not shard.url.startswith(("/", "~", "\\"))
        assert ".." not in shard.url.split("/")
        assert shard.nsamples >= 0
    assert 0 <= found.samples < 2**63
    again = load_manifest(dump_manifest(found), name="again")
    assert again.shards == found.shards
    assert fingerprint(again.shards) == fingerprint(found.shards)


def line(data: bytes) -> None:
    """Lines of annotations, and of ratings by key."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        path.write_bytes(data)
        try:
            reading = read_annotations(path, Rules(root=Path(folder)))
            for annotation in reading.annotations:
                filled = reading.layout.fill(annotation.record)
                json.dumps(filled, allow_nan=False).encode()
                sample_bytes(annotation.key, {"notes.npy": b""})
            json.dumps([rejection.record for rejection in reading.rejected])
        except AnnotationError:
            pass
        try:
            table = read_labels(str(path))
            assert all(
                value is None or np.isfinite(value) for k in table for value in table[k].values()
            )
        except AnnotationError:
            pass


def midi(data: bytes) -> None:
    """MIDI to notes and tokens, whole and cropped, and cut to a file of its own."""
    for start_s, end_s in ((0.0, None), (0.3, 0.9)):
        try:
            notes = read_notes(data, start_s=start_s, end_s=end_s, beat=0.5)
        except DecodeError:
            return
        assert np.isfinite(notes.table).all()
        assert (notes.table[:, :2] >= 0).all()
        tokens = octuple(notes.table)
        assert (tokens >= 0).all()
        assert (tokens[:, 3] < 88).all()
    try:
        cut = cut_midi(parse_midi(data), start_s=0.3, end_s=0.9)
    except DecodeError:
        return
    read_notes(cut.midi, beat=cut.beat)


def audio(data: bytes) -> None:
    """Audio headers and frames; the first byte says what the file claims to be."""
    if not data:
        return
    extension, content = seeds.AUDIO[data[0] % len(seeds.AUDIO)], data[1:]
    for dtype, start in ((np.float32, 0), (np.int16, 7)):
        row = np.full(200, 77, dtype)
        try:
            count = decode_window(content, extension, row, sample_rate=seeds.RATE, start=start)
        except DecodeError:
            continue
        assert 0 <= count <= len(row)
        assert not row[count:].any()
        assert dtype == np.int16 or np.abs(row).max() <= 1.0
    try:
        assert 0 <= duration_s(content, extension, stored_rate=seeds.RATE) < 1e9
        if len(content) <= LONGEST_MEMBER:
            decode_whole(content, extension, sample_rate=seeds.RATE)
    except DecodeError:
        pass


def npy(data: bytes) -> None:
    """Arrays."""
    for read in (npy_view, lambda found: typed_npy_view(found, dtype=np.int16)):
        try:
            array = read(data)
        except DecodeError:
            continue
        assert not array.dtype.hasobject
        assert array.nbytes <= len(data)
    _decode({"json": b"{}", "notes.npy": data, "mid": seeds.midi()}, _recipes()[0])


def sample(data: bytes) -> None:
    """The JSON of a sample, under every way of cropping; the first byte says which."""
    if not data:
        return
    try:
        parse_meta(data[1:])
    except DecodeError:
        return
    recipe = _recipes()[data[0] % len(_recipes())]
    _decode({"json": data[1:], "mid": seeds.midi(), "flac": seeds.audio("flac")}, recipe)


def state(data: bytes) -> None:
    """A state that training goes on from."""
    here = State("f", 0, 10, None, None, 1, 0, 0)
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        loaded = resume_from(found, here, samples=POSITIONS)
    except StateError:
        return
    assert 0 <= loaded.position <= POSITIONS
    assert loaded.epoch >= 0
    assert loaded.streams >= 1


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (tar, index, manifest, line, midi, audio, npy, sample, state)
}


def _decode(members: dict[str, bytes], recipe: Recipe) -> None:
    """Read and decode a sample but for its audio, as a batch does."""
    reader = ShardReader(MemoryTar(sample_bytes("key", members) + END_OF_ARCHIVE))
    decoder = SampleDecoder(recipe, Scratch(), epoch=1)
    try:
        facts = decoder.facts(reader, 0)
    except (DecodeError, ShardError):
        return
    assert facts.start >= 0
    assert facts.midi is None or np.isfinite(facts.midi).all()
    if facts.length is not None and "audio" in recipe.fields:
        assert 0 <= facts.length <= 1024 * 400 * max(1, len(members.get("flac", b"")))


@cache
def _recipes() -> list[Recipe]:
    plain = SimpleNamespace(rate=seeds.RATE, labels=("a",))
    return [
        Recipe(fields, plain.labels, plain.rate, clip_seconds=clip, crop=crop, midi=form)
        for fields, clip, crop, form in (
            (("midi", "labels"), 1.0, "start", "octuple"),
            (("audio", "midi", "labels", "json"), 1.0, "random", "octuple"),
            (("audio", "midi"), None, "start", "notes"),
            (("midi",), None, "start", "octuple"),
            (("audio",), 0.01, "center", "octuple"),
            (("midi",), 0.5, "random", "notes"),
        )
    ]
