"""A run that is killed anywhere ends as one that was not: to the bit, each sample once an epoch."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from runs import Runs, arguments, assert_same_run, checkpoint, epochs, logged, make_splits, wait_for

from trainer.__main__ import main
from trainer.module import Rater
from trainer.stopping import Stopped

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is not resumable"),
]


@pytest.fixture(autouse=True)
def _one_thread():
    """As in the runs that are processes of their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_splits(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("said"))


def fit(shards: Path, out: Path, **changed: object) -> list[str]:
    """Eight batches an epoch, by threes to a step."""
    return arguments(shards, out, trainer__accumulate_grad_batches=3, **changed)


@pytest.fixture(scope="module")
def whole(shards, runs, tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    runs.finish(fit(shards, out))
    return out


def test_the_undisturbed_run_saw_every_sample_once_an_epoch(whole):
    seen = epochs(whole)
    assert list(seen) == [0, 1, 2]
    for keys in seen.values():
        assert len(keys) == len(set(keys)) == 32
    assert seen[0] != seen[1]


def test_killed_at_any_moment_it_ends_the_same(shards, runs, whole, tmp_path):
    out, rng = tmp_path / "run", random.Random(5)
    given = fit(shards, out, checkpoint_minutes=0)
    for batches in (0, 5, 17):
        process = runs.start(given)
        if wait_for(lambda least=batches: len(logged(out)) >= least, process):
            process.join(0.02 * rng.random())
            os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL), runs.said.read_text()
    runs.finish(given)
    assert_same_run(out, whole)


def test_killed_in_a_validation_it_goes_over_the_last_batches_and_validates_again(
    shards, whole, tmp_path, monkeypatch
):
    """Behind the last batch of an epoch there is no checkpoint: Lightning would skip validation."""
    out = tmp_path / "run"
    given, validate = fit(shards, out, checkpoint_minutes=0), Rater.validation_step

    def killed(self, *arguments):
        if self.current_epoch == 1:
            raise Stopped(signal.SIGTERM)
        validate(self, *arguments)

    monkeypatch.setattr(Rater, "validation_step", killed)
    assert main(given) == 0
    assert logged(out)[-1]["batch"] == 14
    monkeypatch.undo()
    assert main(given) == 0
    assert_same_run(out, whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_the_step_and_the_same_command_goes_on(
    number, status, shards, runs, whole, tmp_path, monkeypatch
):
    """Also in a job of SLURM, of whose signals Lightning has its own opinion."""
    for name, value in {"NTASKS": "1", "PROCID": "0", "JOB_ID": "7", "JOB_NAME": "train"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    out = tmp_path / "run"
    given = fit(shards, out, checkpoint_minutes=0)
    process = runs.start(given)
    assert wait_for(lambda: len(logged(out)) >= 10, process)
    os.kill(process.pid, number)
    runs.ended(process, status=status)
    stopped = checkpoint(out)
    assert 10 <= stopped["run"]["batches"] == len(logged(out)) < 24
    said = runs.said.read_text()
    assert f"stopped by {number.name} in epoch {stopped['epoch']}" in said
    assert f"after step {stopped['global_step']}" in said
    runs.finish(given)
    assert_same_run(out, whole)


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(shards, runs, whole, tmp_path):
    out = tmp_path / "run"
    given = fit(shards, out)
    runs.finish([*given, "--trainer.max_epochs=2"])
    last = out / "checkpoints" / "last.ckpt"
    os.truncate(last, last.stat().st_size - 100)
    said = runs.finish(given)
    assert f"{last} is damaged" in said
    assert f"goes on from {last.with_name('previous.ckpt')}" in said
    # The schedule of two epochs was another one, but every sample came once an epoch.
    assert epochs(out) == epochs(whole)


def test_another_batch_size_goes_on_in_the_midst_of_an_epoch(shards, runs, tmp_path):
    out = tmp_path / "run"
    given = arguments(shards, out, checkpoint_minutes=0, trainer__max_epochs=2)
    process = runs.start(given)
    assert wait_for(lambda: len(logged(out)) >= 11, process)
    os.kill(process.pid, signal.SIGUSR1)
    runs.ended(process)
    stopped = checkpoint(out)
    position = stopped["PianoData"]["train"]["position"]
    assert 0 < position < 32
    smaller = "--data.batch_size=2"
    said = runs.finish([*given, smaller], status=1)
    assert "data.batch_size: 4 -> 2" in said
    assert "--fresh" in said
    assert "--ckpt_path" in said
    last = out / "checkpoints" / "last.ckpt"
    runs.finish([*given, smaller, f"--ckpt_path={last}"])
    figures = json.loads((out / "metrics.json").read_text())["last"]
    assert figures["epoch"] == stopped["epoch"] == 1
    assert "val/loss" in figures  # the epoch that was cut in two is validated
    seen = epochs(out)
    assert [len(keys) for keys in seen.values()] == [32, 32]
    assert all(len(set(keys)) == 32 for keys in seen.values())
    steps = stopped["global_step"] + (2 * 32 - 32 * stopped["epoch"] - position) // 2
    assert checkpoint(out)["global_step"] == steps
    rate = checkpoint(out)["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(0, abs=1e-5)  # the schedule ends with the run


def test_more_epochs_and_other_folders_are_the_same_run(shards, runs, tmp_path):
    out = tmp_path / "run"
    runs.finish(arguments(shards, out, trainer__max_epochs=1))
    moved = tmp_path / "moved"
    shutil.copytree(shards, moved)
    runs.finish(arguments(moved, out, trainer__max_epochs=2, data__num_workers=2))
    assert [len(keys) for keys in epochs(out).values()] == [32, 32]
    said = runs.finish(["fit", "--config", str(out / "config.yaml")])
    assert "finished after 2 epochs" in said
    assert len(logged(out)) == 16


def test_fresh_begins_anew(shards, runs, tmp_path):
    out = tmp_path / "run"
    runs.finish(arguments(shards, out, trainer__max_epochs=2))
    (out / "notes-of-mine").mkdir()
    runs.finish([*arguments(shards, out, trainer__max_epochs=1, model__dim=8), "--fresh"])
    assert list(epochs(out)) == [0]
    assert (out / "notes-of-mine").exists()


def test_two_fits_in_one_folder_do_not_disturb_each_other(shards, runs, tmp_path):
    out = tmp_path / "run"
    given = arguments(shards, out, checkpoint_minutes=0, trainer__max_epochs=50)
    process = runs.start(given)
    assert wait_for(lambda: logged(out), process)
    assert "another fit is running" in runs.finish(given, status=1)
    assert process.is_alive()
    process.kill()
    process.join()


def test_weights_alone_are_nothing_to_go_on_from(shards, runs, whole, tmp_path):
    best = whole / "checkpoints" / "best.ckpt"
    said = runs.finish([*arguments(shards, tmp_path), f"--ckpt_path={best}"], status=1)
    assert "weights alone" in said
