"""Waiting as it is, ratings of the best pass, and a report that is one safe file."""

import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from corpus import SAMPLE_RATE, write_annotations
from lightning.pytorch import LightningModule
from runs import arguments, make_splits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from packer.build import build
from packer.options import Options
from trainer.__main__ import main
from trainer.drawing import as_svg, curves, piano_roll, scatter, spectrogram
from trainer.outcomes import Outcome, Outcomes
from trainer.report import Report, Run, best_epoch, page
from trainer.showcase import comparison
from trainer.stopping import Stopped
from trainer.telemetry import RATE, WAITING, Bar, StepTime, Telemetry, together

ROOT = Path(__file__).parent.parent
HOSTILE = '<script>alert("x")</script> & $\\frac{'


# Lightning calls a function that torch has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")


class Data:
    """A data module whose pipeline has counted what the test says."""

    def __init__(self) -> None:
        self.wait_s, self.samples = 0.0, 0

    def stats(self) -> dict[str, Any]:
        counts = {"cache_hits": 3, "fetched_bytes": 2 * 10**6, "skipped": 0}
        return counts | {"wait_s": self.wait_s, "samples": self.samples}


class Log:
    """A module that keeps what is logged."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def log_dict(self, values: dict[str, float], **options: Any) -> None:
        self.found |= values


def test_waiting_is_the_share_of_the_clock_that_the_loop_was_blocked():
    now, data, log = [100.0], Data(), Log()
    telemetry = Telemetry(clock=lambda: now[0])
    trainer: Any = SimpleNamespace(datamodule=data, sanity_checking=False)
    module: Any = log
    telemetry.on_train_epoch_start(trainer, module)
    for waited, computed in ((3.0, 1.0), (0.0, 1.0), (1.0, 2.0)):
        data.wait_s, data.samples = data.wait_s + waited, data.samples + 8
        now[0] += waited + computed
        telemetry.on_train_batch_end(trainer, module, None, None, 0)
    assert telemetry.last == StepTime(3.0, 1.0, 8)
    assert log.found[WAITING] == pytest.approx(4 / 8)
    assert log.found[RATE] == pytest.approx(24 / 8)
    telemetry.on_validation_start(trainer, module)
    now[0] += 50.0  # which is no step
    telemetry.on_validation_end(trainer, module)
    data.samples += 8
    now[0] += 2.0
    telemetry.on_train_batch_end(trainer, module, None, None, 0)
    assert telemetry.last == StepTime(2.0, 0.0, 8)
    telemetry.on_train_epoch_end(trainer, module)
    assert log.found["data/epoch_waiting"] == pytest.approx(4 / 10)
    assert log.found["data/epoch_samples_per_s"] == pytest.approx(32 / 10)
    assert log.found["data/cache_hits"] == 0, "counted from the epoch's start"


def test_an_empty_time_is_no_rate():
    assert together([]).waiting == together([]).samples_per_s == 0.0


def test_the_bar_tells_rate_and_waiting_in_words(monkeypatch: pytest.MonkeyPatch):
    trainer: Any = SimpleNamespace(
        loggers=[], progress_bar_metrics={WAITING: 0.0123, RATE: 1520.4, "train/step_loss": 0.5}
    )
    module: Any = LightningModule()
    items = Bar().get_metrics(trainer, module)
    assert items == {"train/step_loss": 0.5, "samples/s": "1520", "waiting": "1.2%"}


def outcome(*, loss: float = 0.5) -> Outcome:
    labels = torch.tensor([[1.0, 10.0], [2.0, math.nan], [3.0, 30.0]])
    ratings = torch.tensor([[1.0, 10.0], [2.0, 20.0], [1.0, 29.0]])
    return Outcome(2, loss, ("tone", HOSTILE), ("a", HOSTILE, "c"), ratings, labels)


def test_what_is_furthest_off_is_found_by_deviation_and_missing_labels_are_not():
    found = outcome().furthest(99)
    assert [(key, name) for key, name, *_ in found][:2] == [("c", "tone"), ("c", HOSTILE)]
    assert len(found) == 5
    assert found[0][2:] == (1.0, 3.0)


def test_outcomes_outlive_a_checkpoint():
    kept, restored = Outcomes(), Outcomes()
    kept.best = outcome()
    restored.load_state_dict(kept.state_dict())
    assert restored.best is not None
    assert restored.best.keys == kept.best.keys
    assert torch.equal(restored.best.ratings, kept.best.ratings)
    restored.load_state_dict(Outcomes().state_dict())


def report(*, epochs: list[dict[str, float]] | None = None) -> str:
    epochs = epochs or [
        {"epoch": 0.0, "train/loss": 1.0, "val/loss": 0.9, "val/r2": 0.1, "val/r2/tone": 0.123},
        {"epoch": 1.0, "train/loss": 0.8, "val/loss": 0.7, "val/r2": 0.3, "val/r2/tone": 0.321},
        {"epoch": 2.0, "train/loss": 0.6, "val/loss": 0.8, "val/r2": math.nan},
    ]
    machine = {"device": HOSTILE, "cores": "2"}
    return page(Run("mine <b>", epochs, outcome(), f"mode: {HOSTILE}", machine))


def test_a_report_shows_the_best_epoch_and_loads_nothing():
    text = report()
    assert "best at 1" in text
    assert "0.321" in text
    assert "0.123" not in text
    assert text.count("<svg") == 2 + 2  # what was not measured has no curve
    assert "default-src 'none'" in text
    loads = re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)[^"']*|url\((?!#)[^)]*""", text)
    assert [one for one in loads if not one.startswith(("xmlns",))] == []


def test_a_report_of_one_epoch_has_whole_epochs_and_tenths_of_a_sample():
    text = report(epochs=[{"epoch": 0.0, "train/loss": 1.0, "data/epoch_samples_per_s": 2.44}])
    assert "1 epoch," in text
    assert "<b>2.4</b>" in text
    (axes,) = curves({"loss": ([3.0], [0.5])}, title="loss").axes
    assert axes.get_xlim() == (2.5, 3.5)


def test_a_report_escapes_what_anybody_wrote():
    text = report()
    assert "<script" not in text
    assert "<b> " not in text
    assert text.count("&lt;script&gt;alert(") >= 4  # key, dimension, config and machine


def test_a_report_of_a_run_without_validation_says_so():
    epochs = [{"epoch": 0.0, "train/loss": 1.0}]
    assert best_epoch(epochs) == epochs[0]
    text = page(Run("r", epochs, None, "", {"device": "CPU"}))
    assert "Nothing was validated" in text


def stopped(folder: Path, error: BaseException) -> Path:
    """Where the report is of a run that ended so after an epoch."""
    made = Report(Outcomes())
    made.load_state_dict({"epochs": [{"epoch": 0.0, "train/loss": 1.0}]})
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(
        is_global_zero=True, default_root_dir=str(folder), strategy=strategy, datamodule=None
    )
    made.on_exception(trainer, LightningModule(), error)
    return folder / "report.html"


def test_a_run_that_is_stopped_has_a_report_and_one_that_breaks_has_none(tmp_path: Path):
    for name, error in (("key", KeyboardInterrupt()), ("signal", Stopped(signal.SIGINT))):
        (tmp_path / name).mkdir()
        assert stopped(tmp_path / name, error).exists()
    assert not stopped(tmp_path, ValueError()).exists()


def test_a_report_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog):
    (tmp_path / "report.html").mkdir()
    stopped(tmp_path, Stopped(signal.SIGINT))
    assert "report.html cannot be written" in caplog.text


def test_figures_are_drawn_of_anything():
    nothing = np.empty(0)
    for figure in (
        scatter(nothing, nothing, title=HOSTILE),
        scatter(np.ones(3), np.ones(3), title="flat"),
        piano_roll(np.zeros((0, 8), np.int64), title="silence"),
        piano_roll(np.full((2, 8), 7), title="notes"),
        spectrogram(np.zeros((4, 9)), seconds=1.0, title="mel"),
    ):
        assert as_svg(figure).startswith("<svg")


def test_a_fit_shows_what_is_heard_and_read_and_how_it_is_rated(tmp_path: Path):
    build(
        write_annotations(tmp_path, samples=16, seconds=0.5),
        str(tmp_path / "shards"),
        options=Options(sample_rate=SAMPLE_RATE, split={"train": 0.5, "val": 0.5}),
        workers=0,
        progress=False,
    )
    values = {
        "out": tmp_path / "run",
        "data.shards": tmp_path / "shards",
        "data.sample_rate": SAMPLE_RATE,
        "data.clip_seconds": 0.5,
        "data.batch_size": 4,
        "model.dim": 16,
        "model.n_mels": 16,
        "model.n_fft": 256,
        "trainer.enable_progress_bar": "false",
        "trainer.max_epochs": 2,
    }
    config = ["--config", str(ROOT / "configs" / "demo.yaml")]
    assert main(["fit", *config, *(f"--{name}={value}" for name, value in values.items())]) == 0
    events = EventAccumulator(str(tmp_path / "run" / "logs"), size_guidance={"scalars": 0})
    tags = events.Reload().Tags()
    assert {"example/spectrogram", "example/piano_roll", "ratings/rank"} <= set(tags["images"])
    assert tags["audio"] == ["example/audio"]
    assert any(tag.startswith("example/ratings") for tag in tags["tensors"])
    assert {WAITING, RATE, "data/epoch_waiting", "data/cache_hits"} <= set(tags["scalars"])
    assert all(0 <= event.value <= 1 for event in events.Scalars(WAITING))
    (audio,) = {event.sample_rate for event in events.Audio("example/audio")}
    assert audio == SAMPLE_RATE
    text = (tmp_path / "run" / "report.html").read_text()
    assert "2 epochs" in text
    assert f"8 samples, 0.1 min, in 1 shards, at {tmp_path}/shards/train" in text
    assert f"{tmp_path}/shards/val" in text
    assert "8 validation samples" in text
    assert f"out: {tmp_path}/run" in text


def test_a_table_of_ratings_keeps_its_columns():
    table = comparison(["a|b", "c"], torch.tensor([1.0, 2.0]), torch.tensor([math.nan, 3.0]))
    assert table.splitlines()[2:] == ["| a\\|b | 1 |  |", "| c | 2 | 3 |"]


_WITHOUT_TENSORBOARD = """
import sys
from importlib.machinery import PathFinder


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorboard" else super().find_spec(name, path)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from trainer.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_fit_without_tensorboard_trains_and_says_what_is_missing(tmp_path: Path):
    shards = make_splits(tmp_path, samples=10)
    given = arguments(shards, tmp_path / "run", trainer__logger="true", trainer__max_epochs=1)
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TENSORBOARD, *given], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "pip install tensorboard" in ended.stderr
    assert (tmp_path / "run" / "report.html").exists()
