"""Slips of users are told at once, by what they wrote."""

import math

import corpus
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
        ({"labels": True}, "labels must be the URL of a file of ratings, got True"),
    ],
)
def test_arguments_of_another_type_are_named(dataset, given, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(dataset, **SMALL | given)


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
