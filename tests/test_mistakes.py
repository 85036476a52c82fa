"""Slips of users are told at once, by what they wrote."""

import json
import math
from fractions import Fraction

import corpus
import numpy as np
import pytest
import torch

from loader import make_pipeline
from shards.errors import StateError

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 4}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_that_runs_dry_does_not_end_the_epoch(dataset, workers):
    source = iter(range(6))

    def transform(sample):
        sample["number"] = next(source)
        return sample

    options = {**SMALL, "num_workers": workers, "transform": transform}
    with make_pipeline(dataset, **options) as pipe, pytest.raises(RuntimeError, match="StopIt"):
        for _ in pipe:
            pass


def take(dataset, change, **options):
    """The first batch behind a transform that changes some fields."""
    options = {**SMALL, "num_workers": 0, "transform": lambda s: {**s, **change(s)}} | options
    with make_pipeline(dataset, **options) as pipe:
        return next(iter(pipe))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: {"audio": s["audio"] / 32768}, {"audio_dtype": "int16"}, "'audio' float"),
        (lambda s: {"midi": s["midi"] / 128}, {}, "'midi' float64; int64 is due"),
        (lambda s: {"labels": [None, 1.0]}, {}, "'labels' object; float32 is due"),
        (
            lambda s: {"audio": s["audio"].astype("i4") - 40_000},
            {"audio_dtype": "int16"},
            "'audio' int32 of -.*, more than the int16 of a batch holds",
        ),
        (
            lambda s: {"labels": np.array([np.nan, 1e39])},
            {},
            r"'labels' float64 of 1e\+39 to 1e\+39, more than the float32 of a batch holds",
        ),
        (lambda s: {"audio": s["audio"] - np.float64(1e39)}, {}, r"'audio' float64 of -1e\+39"),
        (lambda s: {"audio_frames": 10**8}, {}, "'audio_frames' 100000000; 0 to 8000 is due"),
        (lambda s: {"audio_frames": -1}, {}, "'audio_frames' -1"),
        (lambda s: {"audio_frames": 2.5}, {}, r"'audio_frames' 2\.5"),
        (lambda s: {"midi_notes": 5}, {}, "'midi_notes' 5; 0 to 4 is due"),
        (lambda s: {"name": "abc"}, {}, "'name' of str: no tensor holds that"),
        (lambda s: {"name": None}, {}, "'name' of NoneType: no tensor holds that"),
        (lambda s: {"name": np.zeros(3, ">f4")}, {}, "'name' of ndarray: no tensor holds that"),
    ],
)
def test_what_a_batch_cannot_hold_is_named_by_sample_and_field(dataset, change, options, message):
    with pytest.raises(ValueError, match=f"sample 'audio-.*{message}"):
        take(dataset, change, **options)


@pytest.mark.parametrize("dtype", ["f8", "f2", "i4"])
def test_a_transform_may_return_numbers_that_a_batch_holds(dataset, dtype):
    batch = take(dataset, lambda s: {"labels": s["labels"].astype(dtype), "audio_frames": 3})
    assert batch["labels"].dtype == torch.float32
    assert batch["audio_frames"].tolist() == [3] * 4
    batch = take(dataset, lambda s: {"audio": s["audio"].astype(dtype)}, audio_dtype="float32")
    assert batch["audio"].dtype == torch.float32


def test_wider_integers_are_taken_as_far_as_they_fit(dataset):
    wide = take(dataset, lambda s: {"audio": s["audio"].astype("i8")}, audio_dtype="int16")
    assert torch.equal(wide["audio"], take(dataset, lambda s: {}, audio_dtype="int16")["audio"])


def test_a_mixture_has_the_labels_of_any_of_its_datasets(dataset, tmp_path):
    bare = corpus.make_dataset(tmp_path, samples=20, labels=False)
    with make_pipeline({str(dataset): 1, str(bare): 1}, shuffle=0, **SMALL) as pipe:
        assert pipe.dimensions == ("rank", "odd")
        batch = next(iter(pipe))
    assert torch.isnan(batch["labels"][batch["source"] == 1]).all()
    assert not torch.isnan(batch["labels"][batch["source"] == 0, 0]).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clip_seconds": "10"}, "clip_seconds must be a number, got '10'"),
        ({"sample_rate": "24000"}, "sample_rate must be a number, got '24000'"),
        ({"clip_seconds": math.inf}, "clip_seconds must be a number, got inf"),
        ({"sample_rate": math.nan}, "sample_rate must be a number, got nan"),
        ({"max_notes": True}, "max_notes must be a number, got True"),
        ({"max_notes": 2.5}, "max_notes must be a whole number, got 2.5"),
        ({"sample_rate": 8000.5}, "sample_rate must be a whole number, got 8000.5"),
        ({"cache_bytes": "1GB"}, "cache_bytes must be a number of bytes, got '1GB'"),
        ({"cache_bytes": math.nan}, "cache_bytes must be positive, got nan"),
        ({"labels": True}, "labels must be the URL of a file of ratings, got True"),
    ],
)
def test_arguments_of_another_type_are_named(dataset, given, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(dataset, **SMALL | given)


@pytest.mark.parametrize("weight", ["1", None, True, 0, -1, math.nan, math.inf])
def test_weights_that_are_no_positive_numbers_are_refused(dataset, weight):
    with pytest.raises(ValueError, match=f"the weight of {dataset} must be a positive number"):
        make_pipeline({str(dataset): weight}, **SMALL)


@pytest.mark.parametrize("rate", [math.nan, math.inf, "24k", 8000.5, 0, None, 8000j])
def test_a_wrong_rate_of_a_decoded_cache_is_refused_before_it_names_one(dataset, tmp_path, rate):
    options = {**SMALL, "sample_rate": rate, "cache": "decoded", "cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match="sample_rate must be"):
        make_pipeline(dataset, **options)
    assert not (tmp_path / "cache").exists()


def test_a_decoded_cache_is_one_whatever_kind_of_number_its_rate_is(dataset, tmp_path):
    options = {**SMALL, "fields": ["audio"], "cache": "decoded", "cache_dir": tmp_path}
    for kind in (int, float, np.int64):
        with make_pipeline(dataset, **options | {"sample_rate": kind(8000)}) as pipe:
            next(iter(pipe))
    assert [path.name[-17:] for path in tmp_path.glob("*-decoded-*")] == ["decoded-8000hz-v2"]


@pytest.mark.parametrize("number", [int, np.float32, np.int64, Fraction])
def test_weights_of_any_kind_of_number_are_kept_as_json(dataset, number):
    with make_pipeline({str(dataset): number(2)}, **SMALL) as pipe:
        state = json.loads(json.dumps(pipe.state_dict()))
        pipe.load_state_dict(state | {"mixture": [2]})
        assert state["mixture"] == [2]


@pytest.mark.parametrize("shards", [None, 3, {}, [], ""])
def test_shards_that_are_none_are_refused(shards):
    with pytest.raises(ValueError, match="shards must be a URL"):
        make_pipeline(shards, **SMALL)


def test_what_is_no_key_epoch_state_or_device_is_refused(dataset):
    with make_pipeline(dataset, **SMALL) as pipe:
        with pytest.raises(KeyError, match="asked by their key"):
            pipe[0]
        with pytest.raises(ValueError, match="whole number"):
            pipe.set_epoch(1.5)
        with pytest.raises(StateError, match="a state is a dict"):
            pipe.load_state_dict(None)
    with pytest.raises(ValueError, match="device='gpu'"):
        make_pipeline(dataset, device="gpu", **SMALL)


@pytest.mark.parametrize(("shuffle", "told"), [(0, False), (10, False), (1000, True)])
def test_a_cache_smaller_than_what_is_mixed_is_told(dataset, tmp_path, caplog, shuffle, told):
    size = sum(path.stat().st_size for path in dataset.glob("*.tar"))
    options = {"cache_dir": tmp_path / "cache", "cache_bytes": size // 2, "cache_mount": True}
    with make_pipeline(dataset, shuffle=shuffle, **options, **SMALL):
        assert ("fetched several times an epoch" in caplog.text) == told
