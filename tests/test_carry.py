"""A run is carried to its destination whole, patiently, and comes back from there."""

import errno
import json
import os
import threading
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from runs import arguments, checkpoint, make_splits
from runs import epochs as seen

from trainer import destination, folder
from trainer.__main__ import main
from trainer.carry import Carrier, bring_back, carry
from trainer.checkpoint import WholeCheckpoints, is_whole, newest, write
from trainer.destination import Destination
from trainer.folder import RunFolder
from trainer.scores import Scores

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is not resumable"),
]


def step(path: Path, number: int) -> None:
    """What a run leaves behind a step."""
    with (path / "keys.jsonl").open("a") as file:
        file.write(f"{number}\n")
    write(path / "checkpoints" / "last.ckpt", {"step": number, "weights": torch.ones(1000)})
    (path / "run.json").write_text(json.dumps({"id": "a", "batches": number}))


def number_in(path: Path) -> int:
    return torch.load(path, weights_only=True)["step"]


@pytest.fixture
def here(tmp_path) -> Path:
    (tmp_path / "here").mkdir()
    step(tmp_path / "here", 1)
    return tmp_path / "here"


def test_only_what_changed_is_carried_and_the_last_checkpoint_becomes_the_previous(here, tmp_path):
    there = tmp_path / "there"
    target = Destination(str(there))
    assert set(carry(here, target)) == {"keys.jsonl", "checkpoints/last.ckpt", "run.json"}
    assert carry(here, target) == []
    step(here, 2)
    # The log comes before the checkpoint that speaks of it, and where the run stands comes last.
    assert carry(here, target) == ["keys.jsonl", "checkpoints/last.ckpt", "run.json"]
    assert number_in(there / "checkpoints" / "last.ckpt") == 2
    assert number_in(there / "checkpoints" / "previous.ckpt") == 1
    assert not list(there.rglob(".*"))


def test_another_machine_has_the_run_back_and_passes_over_a_checkpoint_cut_short(here, tmp_path):
    there, new = tmp_path / "there", tmp_path / "new"
    for number in (2, 3):
        carry(here, Destination(str(there)))
        step(here, number)
    last = there / "checkpoints" / "last.ckpt"
    os.truncate(last, last.stat().st_size // 2)
    bring_back(new, Destination(str(there)))
    assert not is_whole(new / "checkpoints" / "last.ckpt")
    assert newest(new / "checkpoints") == new / "checkpoints" / "previous.ckpt"
    assert carry(new, Destination(str(there))) == []


def test_a_flipped_bit_is_found(here):
    last = here / "checkpoints" / "last.ckpt"
    assert is_whole(last)
    data = bytearray(last.read_bytes())
    data[data.index(torch.ones(8).numpy().tobytes())] ^= 1
    last.write_bytes(data)
    assert not is_whole(last)


def test_a_destination_that_fails_delays_and_the_training_goes_on(
    here, tmp_path, monkeypatch, caplog
):
    there, failures = tmp_path / "there", [0]
    put = Destination.put

    def failing(self, *arguments) -> None:
        failures[0] += 1
        if failures[0] <= 3:
            raise OSError(errno.EIO, "Input/output error")
        put(self, *arguments)

    monkeypatch.setattr(Destination, "put", failing)
    carrier = Carrier(here, Destination(str(there)), first_pause_s=0.01)
    began = time.perf_counter()
    carrier.poke()
    assert time.perf_counter() - began < 1  # training does not wait
    assert carrier.close(patience_s=30)
    assert number_in(there / "checkpoints" / "last.ckpt") == 1
    assert caplog.text.count("Input/output error") == 3


def test_a_destination_that_hangs_holds_the_end_up_for_a_while_only(here, tmp_path, monkeypatch):
    monkeypatch.setattr(Destination, "put", lambda *arguments: time.sleep(60))
    carrier = Carrier(here, Destination(str(tmp_path / "there")))
    assert not carrier.close(patience_s=0.2)


def test_a_run_on_drive_lies_on_the_local_disk_and_says_how_drive_is_flushed(
    here, tmp_path, monkeypatch, capsys
):
    drive = tmp_path / "drive"
    monkeypatch.setattr(folder, "is_far", lambda out: True)
    monkeypatch.setattr(destination, "DRIVE", tmp_path)
    out = str(drive / "runs" / "mine")
    run = RunFolder(out, cache_dir=str(tmp_path / "cache")).open()
    assert run.path.is_relative_to(tmp_path / "cache")
    run.begin({"mode": "midi"})
    step(run.path, 1)
    run.saved({"batches": 1})
    run.close()
    assert "drive.flush_and_unmount()" in capsys.readouterr().out
    assert number_in(Path(out) / "checkpoints" / "last.ckpt") == 1
    elsewhere = RunFolder(out, cache_dir=str(tmp_path / "other machine")).open()
    assert elsewhere.config() == {"mode": "midi"}
    assert number_in(elsewhere.checkpoint()) == 1
    # What is further here than there stays.
    step(elsewhere.path, 2)
    elsewhere.saved({"batches": 2})
    again = RunFolder(out, cache_dir=str(tmp_path / "other machine")).open()
    assert number_in(again.checkpoint()) == 2


def test_a_fit_on_a_mount_goes_on_on_another_machine(tmp_path, monkeypatch, capsys):
    """All of it, through the command line."""
    shards, out = make_splits(tmp_path / "data"), tmp_path / "drive" / "run"
    monkeypatch.setattr(folder, "is_far", lambda given: True)
    passes, compute = count(), Scores.compute

    def rising(self: Scores) -> dict[str, torch.Tensor]:
        return compute(self) | {"loss": torch.tensor(float(next(passes)))}

    monkeypatch.setattr(Scores, "compute", rising)  # the first epoch is the best
    for machine, epochs in (("one", 1), ("other", 2)):
        cache = {"data__cache_dir": tmp_path / machine}
        assert main(arguments(shards, out, trainer__max_epochs=epochs, **cache)) == 0
    captured = capsys.readouterr()
    assert f"bringing the run back from {out}" in captured.err
    assert "carrying the run" in captured.out
    assert [len(keys) for keys in seen(out).values()] == [32, 32]
    assert json.loads((out / "run.json").read_text())["epochs"] == 2
    callbacks = checkpoint(out)["callbacks"].values()
    (kept,) = [state for state in callbacks if "best_model_score" in state]
    best = json.loads((out / "metrics.json").read_text())["best"]
    assert float(kept["best_model_score"]) == best["val/loss"]
    assert {"config.yaml", "metrics.json", "checkpoints"} <= {path.name for path in out.iterdir()}
    assert not list((tmp_path / "one" / "runs").glob("*/checkpoints/.*"))


def test_an_object_store_has_whole_objects(here):
    target = Destination("memory://bucket/run")
    carry(here, target)
    step(here, 2)
    carry(here, target)
    assert set(target.sizes()) == {
        *("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "keys.jsonl", "run.json"),
    }
    target.remove(["checkpoints/last.ckpt", "run.json", "is-not-there"])
    assert set(target.sizes()) == {"checkpoints/previous.ckpt", "keys.jsonl"}
    assert sorted(target.names()) == ["checkpoints", "keys.jsonl"]
    assert Destination("memory://bucket/nowhere").names() == []


def test_a_full_disk_leaves_the_checkpoints_that_were_there(here, monkeypatch, caplog):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    keeper = WholeCheckpoints()
    last = here / "checkpoints" / "last.ckpt"
    keeper.save_checkpoint({}, last)
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    assert number_in(last) == 1
    assert LocalFileSystem().ls(str(last.parent)) == [str(last)]


def test_loading_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was run"),)

    write(tmp_path / "last.ckpt", {"weights": Evil()})
    with pytest.raises(Exception, match="weights_only"):
        WholeCheckpoints().load_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert not (tmp_path / "was run").exists()


def test_a_change_told_at_the_last_moment_is_waited_for(here, tmp_path, monkeypatch):
    """Between the look at what has changed and the word that nothing has."""
    seen, carrier = [], Carrier(here, Destination(str(tmp_path / "there")))

    def looked(*arguments: object) -> list[str]:
        seen.append(carrier._idle.is_set())
        return []

    class Late(threading.Event):
        poker = threading.Thread(target=lambda: carrier.poke())

        def is_set(self) -> bool:
            found = super().is_set()
            if not found and not self.poker.ident:
                self.poker.start()
                self.poker.join(0.2)  # held up until the word is out
            return found

    monkeypatch.setattr("trainer.carry.carry", looked)
    late = Late()
    carrier._changed.set()  # let go of the event that it waits for
    carrier._changed = late
    late.set()
    deadline = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen[-1] is False
    assert carrier.close(patience_s=10)


def test_an_error_of_our_own_ends_the_carrying_and_nobody_waits(here, tmp_path, monkeypatch):
    def wrong(*arguments: object) -> None:
        raise AssertionError("a bug")

    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    monkeypatch.setattr(Destination, "put", wrong)
    carrier = Carrier(here, Destination(str(tmp_path / "there")))
    began = time.monotonic()
    assert not carrier.close(patience_s=60)
    assert not carrier.close(patience_s=60)  # also once it has ended
    assert time.monotonic() - began < 30
    assert [str(one.exc_value) for one in told] == ["a bug"]


def test_a_best_checkpoint_that_found_no_room_is_not_the_best(tmp_path, monkeypatch):
    """The first of three epochs has the lowest loss, and the disk is full then."""
    shards, out = make_splits(tmp_path / "data", samples=20), tmp_path / "run"
    losses, compute, save = iter([9.0, 1.0, 3.0, 2.0]), Scores.compute, torch.save
    full = [True]

    def falling(self: Scores) -> dict[str, torch.Tensor]:
        return compute(self) | {"loss": torch.tensor(next(losses))}

    def failing(checkpoint: dict, file: object) -> None:
        if full and "best" in str(file.name):
            full.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        save(checkpoint, file)

    monkeypatch.setattr(Scores, "compute", falling)
    monkeypatch.setattr(torch, "save", failing)
    assert main(arguments(shards, out)) == 0
    assert not full
    assert checkpoint(out, "best")["epoch"] == 2
    callbacks = checkpoint(out)["callbacks"].values()
    (kept,) = [state for state in callbacks if "best_model_score" in state]
    assert float(kept["best_model_score"]) == 2.0
