"""Out of memory says what to change; the largest batch that fits is found; precision suits."""

from collections import namedtuple
from pathlib import Path

import pytest
import torch
import yaml
from runs import arguments, checkpoint, logged, make_splits

from trainer.__main__ import main
from trainer.devices import precision, processes, several
from trainer.fitting import foreseen
from trainer.memory import advice, is_out_of_memory, largest, shares
from trainer.module import Rater

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is not resumable"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_splits(tmp_path_factory.mktemp("memory"))


@pytest.fixture(autouse=True)
def _one_thread():
    """So small a model is slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(monkeypatch) -> None:
    """A device with room for five samples."""
    step = Rater.training_step

    def training_step(self, batch, batch_idx):
        if len(batch["__key__"]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Rater, "training_step", training_step)


def test_running_out_says_what_to_change(shards, tmp_path, small, capsys):
    given = arguments(shards, tmp_path / "run", data__batch_size=8, trainer__precision="32-true")
    assert main(given) == 1
    said = capsys.readouterr().err
    assert "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB." in said
    assert "--data.batch_size 4 --trainer.accumulate_grad_batches 2" in said
    for key in ("--trainer.precision auto", "--data.clip_seconds 0.125", "--auto_batch_size"):
        assert key in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("option", "batch_size", "steps"), [("largest", 5, 1), ("accumulate", 4, 2)]
)
def test_the_largest_batch_is_found_and_kept(
    option, batch_size, steps, shards, tmp_path, small, capsys
):
    out = tmp_path / "run"
    given = arguments(shards, out, data__batch_size=8, trainer__max_epochs=1)
    given.append(f"--auto_batch_size={option}")
    assert main(given) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"]["batch_size"] == batch_size
    assert config["trainer"]["accumulate_grad_batches"] == steps
    assert {len(line["keys"]) for line in logged(out)} == {batch_size}
    capsys.readouterr()
    assert main([*given, "--trainer.max_epochs=2"]) == 0  # what was found then is taken
    assert "looking for" not in capsys.readouterr().err
    assert checkpoint(out)["global_step"] == 2 * (32 // batch_size // steps)


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 63, 64, 100])
def test_the_largest_is_found_by_few_tries(most):
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= most

    assert largest(fits, most=100) == most
    assert len(tried) == len(set(tried)) <= 14
    assert max(tried) <= max(1, 2 * most, 1)


def test_what_a_batch_needs_follows_from_the_peaks_of_smaller_ones():
    assert foreseen({1: 100}, 64) == 0
    assert foreseen({1: 100, 2: 110}, 6) == 150
    assert foreseen({1: 100, 2: 110, 4: 150}, 6) == 190
    assert foreseen({1: 100, 2: 100}, 3, least=25) == 125
    assert foreseen({1: 0, 2: 0}, 1, least=25) == 25


@pytest.mark.parametrize(("size", "expected"), [(8, (4, 2)), (6, (3, 2)), (7, (1, 7))])
def test_what_is_advised_keeps_the_step(size, expected):
    config = {
        "data": {"batch_size": size, "clip_seconds": 10.0},
        "model": {},
        "trainer": {"accumulate_grad_batches": 3, "precision": "bf16-mixed"},
    }
    part, parts = expected
    asked = f"--data.batch_size {part} --trainer.accumulate_grad_batches {3 * parts} "
    assert advice(config)[0].startswith(asked)


def test_a_batch_is_shared_out_evenly():
    assert shares(16, fitting=5) == (4, 4)
    assert shares(16, fitting=64) == (16, 1)
    assert shares(7, fitting=6) == (1, 7)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.05 GB)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ],
)
def test_running_out_is_recognised(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("capability", "chosen"), [(None, "32-true"), ((7, 5), "16-mixed"), ((8, 0), "bf16-mixed")]
)
def test_precision_auto_suits_the_device(capability, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert precision("auto", accelerator="auto") == chosen
    assert precision("auto", accelerator="cpu") == "32-true"
    assert precision("bf16-mixed", accelerator="cpu") == "bf16-mixed"


def test_precisions_that_audio_cannot_be_trained_in_are_no_choice(shards, tmp_path, capsys):
    for name in ("bf16-true", "16-true"):
        with pytest.raises(SystemExit):
            main(arguments(shards, tmp_path, trainer__precision=name))
        assert "trainer.precision" in capsys.readouterr().err


def test_torchrun_decides_how_many_processes_there_are():
    there = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
    assert processes(there) == {"devices": 4, "num_nodes": 2}
    assert processes({}) == {}
    Asked = namedtuple("Asked", "devices accelerator")
    assert several(Asked(1, "cpu")._asdict(), there)
    for devices, expected in (("auto", False), (1, False), ("1", False), (2, True), ([0, 1], True)):
        assert several(Asked(devices, "cpu")._asdict(), {}) is expected


def test_a_run_that_stopped_early_stays_stopped(shards, tmp_path, capsys):
    """Also where it was killed between its last checkpoint and its end."""
    out = tmp_path / "run"
    nothing_learned = {"model__learning_rate": 0, "early_stopping": 1}
    given = arguments(shards, out, trainer__max_epochs=9, **nothing_learned)
    assert main(given) == 0
    assert checkpoint(out)["epoch"] == 1
    assert main(given) == 0
    assert "finished early, after 2 epochs" in capsys.readouterr().err
    assert checkpoint(out)["epoch"] == 1
