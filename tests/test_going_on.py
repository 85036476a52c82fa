"""A run goes on as its command line says, also where that is not what its checkpoint says."""

import json
import math
from itertools import count
from types import SimpleNamespace

import pytest
import torch
import yaml
from runs import arguments, checkpoint, epochs, make_splits

from trainer import devices, folder, keylog
from trainer.__main__ import main
from trainer.carry import Carrier
from trainer.checkpoint import WholeCheckpoints
from trainer.keeper import Keeper, _is_between
from trainer.outcomes import Outcome, Outcomes
from trainer.scores import Scores
from trainer.stopping import Stopped, StopSignals

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is not resumable"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("going-on"), samples=20)


def last(out) -> str:
    return f"--ckpt_path={out / 'checkpoints' / 'last.ckpt'}"


def groups(out) -> list[dict]:
    return checkpoint(out)["optimizer_states"][0]["param_groups"]


def test_a_changed_model_is_what_goes_on(shards, tmp_path):
    """Four steps an epoch; no warm-up, so that the rate of a step is known."""
    out, fixed = tmp_path / "run", {"model__warmup_fraction": 0}
    given = arguments(shards, out, trainer__max_epochs=1, model__learning_rate=1e-3, **fixed)
    assert main(given) == 0
    changed = arguments(
        shards,
        out,
        trainer__max_epochs=2,
        model__learning_rate=5e-4,
        model__weight_decay=0.25,
        model__gradient_checkpointing="true",
        **fixed,
    )
    assert main([*changed, last(out)]) == 0
    found = yaml.safe_load((out / "config.yaml").read_text())["model"]
    assert (found["learning_rate"], found["gradient_checkpointing"]) == (5e-4, True)
    assert checkpoint(out)["hyper_parameters"]["learning_rate"] == 5e-4
    assert {group["initial_lr"] for group in groups(out)} == {5e-4}
    assert {group["weight_decay"] for group in groups(out)} == {0.25, 0.0}
    assert set(checkpoint(out)["lr_schedulers"][0]["base_lrs"]) == {5e-4}


def test_a_fit_refuses_a_checkpoint_whose_optimiser_had_other_parts(shards, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(arguments(shards, out, trainer__max_epochs=1)) == 0
    earlier = checkpoint(out)
    del earlier["hyper_parameters"]["wide_learning_rate"]
    torch.save(earlier, out / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    assert main(arguments(shards, out, trainer__max_epochs=2)) == 1
    assert "earlier version" in capsys.readouterr().err
    assert main(["validate", *arguments(shards, out)[1:], last(out)]) == 0
    rated = ["--shards", str(shards / "val"), "--out", str(tmp_path / "rated.jsonl")]
    assert main(["predict", "--checkpoint", last(out).partition("=")[2], *rated]) == 0


def test_the_first_step_behind_a_checkpoint_has_the_new_rate(shards, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert main(arguments(shards, out, trainer__max_epochs=1)) == 0
    rates, step = [], torch.optim.AdamW.step

    def noting(self, *given, **named):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *given, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    rate = {"model__learning_rate": 1.0, "trainer__max_epochs": 2, "model__warmup_fraction": 0}
    assert main([*arguments(shards, out, **rate), last(out)]) == 0
    assert rates[0] == pytest.approx(0.5)  # half of a cosine is behind it


def test_a_checkpoint_of_another_model_is_refused_in_words(shards, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(arguments(shards, out, trainer__max_epochs=1)) == 0
    assert main([*arguments(shards, out, model__dim=8), last(out)]) == 1
    said = capsys.readouterr().err
    assert "error: --ckpt_path" in said
    assert "size mismatch" in said


def test_more_patience_lets_a_run_go_on_that_was_stopped_early(
    shards, tmp_path, monkeypatch, capsys
):
    passes, compute = count(), Scores.compute

    def rising(self: Scores) -> dict[str, torch.Tensor]:
        return compute(self) | {"loss": torch.tensor(float(next(passes)))}

    monkeypatch.setattr(Scores, "compute", rising)  # never better than at first
    out = tmp_path / "run"

    def fit(patience: int) -> int:
        given = arguments(shards, out, trainer__max_epochs=9, early_stopping=patience)
        assert main(given) == 0
        return json.loads((out / "run.json").read_text())["epochs"]

    assert fit(2) == 3
    assert fit(2) == 3
    assert "finished early, after 3 epochs; leave --early_stopping out or raise it" in (
        capsys.readouterr().err
    )
    assert fit(4) == 5
    assert "goes on from" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["null", "-1"])
def test_a_run_of_so_many_steps_goes_on(shards, tmp_path, capsys, limit):
    out = tmp_path / "run"

    def fit(steps: int) -> str:
        given = arguments(shards, out, trainer__max_epochs=limit, trainer__max_steps=steps)
        assert main(given) == 0
        return capsys.readouterr().err

    fit(6)
    assert checkpoint(out)["global_step"] == 6
    assert "finished after 6 steps; raise --trainer.max_steps" in fit(6)
    assert "goes on from" in fit(8)
    assert checkpoint(out)["global_step"] == 8
    assert {epoch: len(keys) for epoch, keys in epochs(out).items()} == {0: 16, 1: 16}


def test_ctrl_c_while_a_finished_run_is_carried_says_so(shards, tmp_path, monkeypatch, capsys):
    def interrupted(self: Carrier, *, patience_s: float) -> bool:
        raise Stopped(2)

    monkeypatch.setattr(folder, "is_far", lambda given: True)
    monkeypatch.setattr(Carrier, "close", interrupted)
    given = arguments(shards, tmp_path / "run", data__cache_dir=tmp_path / "cache")
    assert main([*given, "--trainer.max_epochs=1"]) == 130
    said = capsys.readouterr().err
    assert "stopped by SIGINT while the run was carried" in said
    assert "before it began" not in said


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_that_does_not_exist_is_told_in_a_line(shards, tmp_path, capsys, command):
    given = arguments(shards, tmp_path / "run")[1:]
    assert main([command, *given, f"--ckpt_path={tmp_path}/none.ckpt"]) == 1
    assert f"error: --ckpt_path: {tmp_path}/none.ckpt is not a file" in capsys.readouterr().err


def test_keys_are_kept_by_the_rank_that_writes_them(tmp_path):
    for first in (True, False):
        trainer = SimpleNamespace(
            is_global_zero=first,
            loggers=[],
            current_epoch=0,
            global_step=1,
            should_stop=False,
            save_checkpoint=lambda path, weights_only: None,
        )
        folder, stands = tmp_path / str(first), []
        folder.mkdir()
        files = WholeCheckpoints()
        keeper = Keeper(folder, StopSignals(), files, minutes=1, log_keys=True, saved=stands.append)
        keeper._keys = [keylog.line(epoch=0, batch=1, keys=["a"])]
        keeper._save(trainer)
        assert keeper._unwritten == keeper._keys == []
        assert (folder / keylog.NAME).exists() == bool(stands) == first


@pytest.mark.parametrize(
    ("every", "batch", "batches_before", "between"),
    [(1, 2, 0, False), (1, 2, 4, False), (1, 0, 2, True), (None, 0, 2, False), (None, 2, 2, True)],
)
def test_no_checkpoint_lies_where_a_validation_is_due(every, batch, batches_before, between):
    """Every third batch is validated: of an epoch, or of the run."""
    loop = SimpleNamespace(total_batch_idx=batches_before + batch)
    trainer = SimpleNamespace(
        accumulate_grad_batches=1,
        val_check_batch=3,
        check_val_every_n_epoch=every,
        is_last_batch=False,
        fit_loop=SimpleNamespace(epoch_loop=loop),
    )
    assert _is_between(trainer, batch) == between


def test_a_first_pass_without_a_loss_is_replaced_by_one_that_has_it():
    outcomes = Outcomes()
    for epoch, loss in enumerate([math.nan, 3.0, math.nan, 2.0, 2.5]):
        nothing = torch.zeros(0, 1)
        outcomes._now = Outcome(epoch, math.inf, ("a",), (), nothing, nothing)
        metrics = {"val/loss": torch.tensor(loss)}
        outcomes.on_validation_end(SimpleNamespace(callback_metrics=metrics), None)
    assert outcomes.best.epoch == 3


@pytest.mark.parametrize(
    ("asked", "several"),
    [("0,1", True), ("0,", False), ("0", False), ("2", True), (1, False), ([0, 1], True)],
)
def test_devices_are_counted_as_lightning_counts_them(asked, several):
    assert devices.several({"devices": asked, "accelerator": "gpu"}, environ={}) == several
