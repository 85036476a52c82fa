"""Small runs of the trainer for the tests: data, arguments, and what a run leaves."""

import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import torch
from corpus import SAMPLE_RATE, write_annotations

from packer.build import build
from packer.options import Options

ROOT = Path(__file__).parent.parent


def make_splits(folder: Path, *, samples: int = 40) -> Path:
    """Four fifths to train on and a fifth to validate on; every fourth lacks one of two labels."""
    path = write_annotations(folder, samples=samples, seconds=0.25)
    options = Options(sample_rate=SAMPLE_RATE, split={"train": 0.8, "val": 0.2}, shard_bytes=10**5)
    build(path, str(folder / "shards"), options=options, workers=0, progress=False)
    return folder / "shards"


def arguments(shards: Path, out: object, **changed: object) -> list[str]:
    """Of a fit of a tiny model on MIDI, with dropout; ``a__b`` sets ``a.b``."""
    values = {
        "mode": "midi",
        "out": out,
        "data.shards": shards,
        "data.sample_rate": SAMPLE_RATE,
        "data.clip_seconds": 0.25,
        "data.batch_size": 4,
        "data.num_workers": 1,
        "data.max_notes": 16,
        "model.dim": 16,
        "model.dropout": 0.3,
        "trainer.max_epochs": 3,
        "trainer.enable_progress_bar": "false",
        "trainer.logger": "false",
        **{name.replace("__", "."): value for name, value in changed.items()},
    }
    config = ["--config", str(ROOT / "configs" / "demo.yaml")]
    return ["fit", *config, *(f"--{name}={value}" for name, value in values.items())]


def run(given: list[str], said: Path, environ: dict[str, str]) -> None:
    """``python -m trainer`` in a process that is not this one; what it says goes to a file."""
    from lightning.pytorch.utilities import rank_zero_only

    from trainer.__main__ import main

    os.environ.update(environ)
    rank_zero_only.rank = int(environ.get("RANK", "0"))  # Lightning asks when it is imported
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        status = main(given)
        sys.stdout.flush()
    os._exit(status)


class Runs:
    """Starts runs in processes forked from one that has PyTorch and Lightning loaded already."""

    def __init__(self, folder: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["runs", "trainer.command"])
        self.said = folder / "said.txt"

    def start(self, given: list[str], **environ: str) -> multiprocessing.process.BaseProcess:
        process = self._context.Process(target=run, args=(given, self.said, environ))
        process.start()
        return process

    def start_ranks(
        self, given: list[str], ranks: int
    ) -> list[multiprocessing.process.BaseProcess]:
        """Processes as torchrun would start them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
        }
        return [
            self.start(given, RANK=str(rank), LOCAL_RANK=str(rank), **common)
            for rank in range(ranks)
        ]

    def finish(self, given: list[str], *, status: int = 0) -> str:
        """Run to the end; what it said."""
        before = self.said.stat().st_size if self.said.exists() else 0
        self.ended(self.start(given), status=status)
        return self.said.read_text()[before:]

    def ended(self, process: multiprocessing.process.BaseProcess, *, status: int = 0) -> None:
        process.join(60)
        assert process.exitcode == status, self.said.read_text()


def wait_for(condition, process: multiprocessing.process.BaseProcess) -> bool:
    """Wait until something is so; False if the process ended before."""
    limit = time.monotonic() + 60
    while not condition():
        if not process.is_alive():
            return False
        assert time.monotonic() < limit
        time.sleep(0.005)
    return True


def logged(out: Path) -> list[dict]:
    """The log of keys, as far as its last line is whole."""
    path = out / "keys.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def epochs(out: Path) -> dict[int, list[str]]:
    """Keys of each epoch, in order."""
    found: dict[int, list[str]] = {}
    for line in logged(out):
        found.setdefault(line["epoch"], []).extend(line["keys"])
    return found


def checkpoint(out: Path, name: str = "last") -> dict:
    return torch.load(out / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_equal(one: object, other: object, path: str = "") -> None:
    """The same to the bit: tensors, and what holds them."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{path}[{number}]")
    else:
        assert one == other, path


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, optimiser, generators, figures and order of samples."""
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "run", "PianoData", "epoch"):
        assert_equal(checkpoint(one)[part], checkpoint(other)[part], part)
    assert_equal(checkpoint(one, "best")["state_dict"], checkpoint(other, "best")["state_dict"])
    assert logged(one) == logged(other)
    assert json.loads((one / "metrics.json").read_text()) == json.loads(
        (other / "metrics.json").read_text()
    )
