"""The examples of docs/composing.md: every sample once an epoch, and resumed where they stopped."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import torch
from snippets import sections

CODE = sections("docs/composing.md")
EPOCHS = {
    "A plain loop": 2,
    "A DataLoader": 1,
    "WebDataset stages": 1,
    "Transforms that hold the GIL": 2,
}
RESUMED = {"Lightning", "Accelerate", "torchrun"}
SAMPLES = 48  # twelve batches of four


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("composing")
    return str(corpus.make_dataset(folder, samples=SAMPLES, shard_samples=12))


class StoppedError(Exception):
    """Training was broken off."""


class Diary:
    """Notes the keys of every batch; breaks off at one, which counts as not trained on."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self._stop_after = stop_after

    def train(self, batch: dict[str, Any]) -> None:
        if len(self.batches) == self._stop_after:
            raise StoppedError
        self.batches.append(batch["__key__"])

    def loss_of(self, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        self.train(batch)
        return model(batch["audio"][:, :1]).mean()


def code(heading: str) -> str:
    """An example, with batches as small as the test's samples."""
    small = f"batch_size=4, sample_rate={corpus.SAMPLE_RATE}, clip_seconds=1.0"
    assert "batch_size=16" in CODE[heading]
    return CODE[heading].replace("batch_size=16", small)


def assert_each_once(batches: list[list[str]]) -> None:
    """A whole epoch."""
    keys = [key for batch in batches for key in batch]
    assert len(keys) == len(set(keys)) == SAMPLES


def test_every_example_is_run():
    assert CODE.keys() == EPOCHS.keys() | RESUMED


@pytest.mark.parametrize("heading", EPOCHS)
def test_every_sample_comes_once_an_epoch(shards, heading):
    diary = Diary()
    exec(code(heading), {"shards": shards, "train": diary.train})
    assert len(diary.batches) == 12 * EPOCHS[heading]
    for first in range(0, len(diary.batches), 12):
        assert_each_once(diary.batches[first : first + 12])


def test_both_transforms_make_the_same(shards):
    names: dict[str, Any] = {"shards": shards, "train": lambda batch: None}
    exec(code("Transforms that hold the GIL"), names)
    audio = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    slow, fast = (names[name]({"audio": audio})["energy"] for name in ("slow", "fast"))
    assert slow == pytest.approx(fast, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")  # Lightning's own call of torch
# The document tells of these three.
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*has `__len__` defined")
@pytest.mark.filterwarnings("ignore:.*is not resumable")
@pytest.mark.parametrize("stop_after", [5, 12, 29])
def test_lightning_resumes_within_an_epoch_and_after_it(shards, tmp_path, stop_after):
    pytorch = pytest.importorskip("lightning.pytorch")
    names: dict[str, Any] = {}
    exec(code("Lightning"), names)
    saved = tmp_path / "saved.ckpt"

    class Model(pytorch.LightningModule):
        def __init__(self, diary: Diary) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.diary = diary

        def training_step(self, batch, index):
            return self.diary.loss_of(self.layer, batch)

        def on_train_batch_end(self, *step: object) -> None:
            if self.trainer.global_step == stop_after:
                self.trainer.save_checkpoint(saved)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters())

    def fit(diary: Diary, ckpt_path: Path | None) -> None:
        trainer = pytorch.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Model(diary), datamodule=names["PianoData"](shards), ckpt_path=ckpt_path)

    first, second = Diary(stop_after=stop_after), Diary()
    with pytest.raises(StoppedError):
        fit(first, None)
    fit(second, saved)
    plain = Diary()
    exec(
        code("A plain loop").replace("range(2)", "range(3)"),
        {"shards": shards, "train": plain.train},
    )
    assert first.batches + second.batches == plain.batches


def test_accelerate_resumes_within_an_epoch(shards, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    example = code("Accelerate").replace("SAVE_EVERY, SAVED = 100", "SAVE_EVERY, SAVED = 5")

    def run(diary: Diary) -> None:
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters())
        mine = {"model": model, "optimizer": optimizer, "loss_of": diary.loss_of}
        exec(example, mine | {"shards": shards})

    first, second = Diary(stop_after=7), Diary()
    with pytest.raises(StoppedError):
        run(first)
    run(second)
    assert_each_once(first.batches[:5] + second.batches)


PRELUDE = """
import json, sys, torch
shards, model, seen = sys.argv[1], torch.nn.Linear(1, 1), []

def loss_of(model, batch):
    if len(seen) == 3:
        with open(f"rank-{dist.get_rank()}.json", "w") as file:
            json.dump(seen, file)
        sys.exit("stopped")
    seen.append(batch["__key__"])
    return model(batch["audio"][:, :1]).mean()
"""


def test_what_two_ranks_of_torchrun_left_is_done_by_one(shards, tmp_path, monkeypatch):
    example = code("torchrun").replace(
        "EPOCHS, SAVE_EVERY, SAVED = 3, 100", "EPOCHS, SAVE_EVERY, SAVED = 1, 2"
    )
    (tmp_path / "train.py").write_text(PRELUDE + example)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    done = subprocess.run([sys.executable, *launch, shards], timeout=120, check=False)
    assert done.returncode == 1
    ranks = [json.loads(Path(f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    rest = Diary()
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    mine = {"model": torch.nn.Linear(1, 1), "loss_of": rest.loss_of}
    try:
        exec(example, mine | {"shards": shards})
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert_each_once([batch for rank in ranks for batch in rank[:2]] + rest.batches)
