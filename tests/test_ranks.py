"""Ranks that train together do what one does, end together, and go on as another number."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from runs import Runs, arguments, checkpoint, epochs, logged, make_splits, wait_for


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_splits(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("said"))


def test_two_ranks_have_the_loss_of_one_and_end_an_epoch_that_does_not_divide(
    shards, runs, tmp_path
):
    """32 samples and 8 to validate, by batches of 3 on each of two ranks."""
    same = {"model__dropout": 0, "model__wide_dropout": 0, "data__drop_last": "false"}
    same |= {"trainer__max_epochs": 2}
    one, two = tmp_path / "one", tmp_path / "two"
    runs.finish(arguments(shards, one, data__batch_size=6, **same))
    for process in runs.start_ranks(arguments(shards, two, data__batch_size=3, **same), 2):
        runs.ended(process)
    assert epochs(two) == epochs(one)
    assert [len(keys) for keys in epochs(two).values()] == [32, 32]
    alone, together = (json.loads((out / "metrics.json").read_text()) for out in (one, two))
    for when in ("first", "last"):
        for name in ("train/loss", "val/loss", "val/mse", "val/mae/rank", "val/r2/odd"):
            assert together[when][name] == pytest.approx(alone[when][name], rel=1e-4), name
    theirs = checkpoint(two)["state_dict"]
    for name, tensor in checkpoint(one)["state_dict"].items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_checkpoint_goes_on_with_another_number_of_ranks(before, after, shards, runs, tmp_path):
    out = tmp_path / "run"
    given = arguments(
        shards, out, checkpoint_minutes=0, data__batch_size=2, data__drop_last="false"
    )
    processes = runs.start_ranks(given, before)
    assert wait_for(lambda: len(logged(out)) >= 10, processes[0])
    os.kill(processes[0].pid, signal.SIGTERM)  # it tells the others
    for process in processes:
        runs.ended(process)
    assert checkpoint(out)["PianoData"]["train"]["position"] > 0
    for process in runs.start_ranks(given, after):
        runs.ended(process)
    seen = epochs(out)
    assert [len(keys) for keys in seen.values()] == [32, 32, 32]
    assert all(len(set(keys)) == 32 for keys in seen.values())
