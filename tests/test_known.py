"""What is the same in every epoch is decoded once."""

import shutil
from dataclasses import replace

import corpus
import numpy as np
import pytest
import torch

from loader import make_pipeline
from loader.example import Facts, SampleDecoder
from loader.known import KnownFacts
from shards.errors import DecodeError
from shards.reader import ShardReader

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 8}


def facts(notes: int) -> Facts:
    midi = np.zeros((notes, 8), dtype=np.int16)
    return Facts("key", 0, None, 1.0, 8000, midi, None, 0, None)


def damage_midi(dataset) -> None:
    """Overwrite the first bytes of every MIDI file, so that reading one again is an error."""
    for path in dataset.glob("*.tar"):
        with ShardReader(path) as reader, path.open("r+b") as tar:
            for row in range(len(reader)):
                for member in reader.members(row):
                    if member.extension == "mid":
                        tar.seek(member.start)
                        tar.write(b"torn")


def test_midi_is_decoded_in_the_first_epoch_only(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    with make_pipeline(copy, drop_last=False, **SMALL) as pipe:
        first = {key: batch["midi"][i] for batch in pipe for i, key in enumerate(batch["__key__"])}
        damage_midi(copy)
        for batch in pipe:
            for row, key in enumerate(batch["__key__"]):
                assert batch["midi"][row].equal(first[key])


@pytest.mark.parametrize("other", [{"crop": "random"}, {"fields": ("midi", "json")}])
def test_what_changes_or_is_large_is_read_every_time(dataset, tmp_path, other):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    with make_pipeline(copy, **{**SMALL, "clip_seconds": 0.5, **other}) as pipe:
        for _ in pipe:
            pass
        damage_midi(copy)
        with pytest.raises(DecodeError, match="MIDI"):
            next(iter(pipe))


def test_the_first_are_kept_when_memory_is_short():
    known = KnownFacts(limit_bytes=5100)
    for row in range(3):
        known.keep(0, row, facts(100))
    assert known.find(0, 0) is not None
    assert known.find(0, 1) is not None
    assert known.find(0, 2) is None
    known.keep(0, 3, facts(1))
    assert known.find(0, 3) is not None


def test_a_sample_counts_once_however_often_it_is_kept():
    known = KnownFacts(limit_bytes=5000)
    for _ in range(10):
        known.keep(0, 0, facts(100))
    known.keep(0, 1, facts(100))
    assert known.find(0, 1) is not None


def test_facts_that_were_read_before_a_shard_was_mended_are_not_kept(dataset, monkeypatch):
    """Another thread finds the shard damaged while a batch with facts of it is in the making."""
    options = {**SMALL, "num_workers": 0, "shuffle": 0}
    with make_pipeline(dataset, **options) as pipe:
        expected = [batch["midi"].clone() for batch in pipe]
    read = SampleDecoder.facts
    with make_pipeline(dataset, **options) as pipe:

        def damaged(self, reader, row, **told):
            monkeypatch.setattr(SampleDecoder, "facts", read)
            pipe._decoder._known = KnownFacts(10**7)  # as the other thread does
            return replace(read(self, reader, row, **told), midi=np.zeros((4, 8), np.int16))

        monkeypatch.setattr(SampleDecoder, "facts", damaged)
        for _ in range(2):
            found = [batch["midi"].clone() for batch in pipe]
            assert all(map(torch.equal, found, expected))
