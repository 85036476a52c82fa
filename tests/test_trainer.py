"""trainer: configs load, every mode trains on shards, and a resumed run repeats nothing."""

import io
import json
import logging
import struct
import wave
from hashlib import sha256
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from shards.index import index_bytes
from shards.keys import keys_bytes
from shards.manifest import LabelStats, Manifest, ShardInfo, dump_manifest
from shards.tar import sample_bytes
from trainer.__main__ import main
from trainer.augmentation import Augmentation
from trainer.data import PianoData
from trainer.models import Mode
from trainer.module import Rater
from trainer.schedule import warmup_cosine
from trainer.scores import Scores, figures

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
RATE, FRAMES = 8000, 4000
SIZES = {"train": 26, "val": 7, "test": 5}
pytestmark = [
    # Lightning calls a function that torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    # The data module resumes the feed, which Lightning cannot see.
    pytest.mark.filterwarnings("ignore:.*is not resumable"),
    # The resumed runs write no checkpoints themselves.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def midi_bytes(velocity: int) -> bytes:
    """Eight quarter-second notes as a format 0 file of 480 ticks a quarter, at 120 a minute."""
    note = [bytes([0, 0x90, 60 + i, velocity, 0x78, 0x80, 60 + i, 0]) for i in range(8)]
    track = b"".join(note) + b"\0\xff\x2f\0"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def wav_bytes(loudness: float, rng: np.random.Generator) -> bytes:
    noise = (rng.uniform(-1, 1, FRAMES) * loudness * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, FRAMES, "NONE", ""))
        writer.writeframes(noise.tobytes())
    return file.getvalue()


def sample(number: int) -> dict[str, bytes]:
    """A clip whose labels are heard and read: 'loud' in both, 'half' missing every other time."""
    rng = np.random.default_rng(number)
    loud = rng.uniform(0.1, 1.0)
    note = {
        "labels": {"loud": 100 * loud, "half": None if number % 2 else 100 - 50 * loud},
        "sample_rate": RATE,
        "frames": FRAMES,
        "duration": FRAMES / RATE,
        "midi_bar": 0,
        "midi_beat": 0.0,
    }
    return {
        "json": json.dumps(note).encode(),
        "wav": wav_bytes(loud, rng),
        "mid": midi_bytes(round(127 * loud)),
    }


def write_split(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True)
    samples = [sample(n) for n in numbers]
    keys = [f"{folder.name}-{n:03}" for n in numbers]
    blocks = [sample_bytes(key, members) for key, members in zip(keys, samples, strict=True)]
    tar = b"".join(blocks) + bytes(1024)
    name = "shard-000000.tar"
    (folder / name).write_bytes(tar)
    offsets = np.cumsum([0, *map(len, blocks)]).tolist()
    (folder / f"{name}.idx").write_bytes(index_bytes(offsets))
    (folder / "keys.bin").write_bytes(keys_bytes([keys]))
    labels = [json.loads(s["json"])["labels"] for s in samples]
    manifest = Manifest(
        folder.name,
        (ShardInfo(name, len(keys), len(tar), sha256(tar).hexdigest()),),
        fields={"audio": "wav", "midi": "mid"},
        labels={n: label_stats([x[n] for x in labels if x[n] is not None]) for n in labels[0]},
        duration_s=len(keys) * FRAMES / RATE,
    )
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))


def label_stats(values: list[float]) -> LabelStats:
    x = np.array(values)
    return LabelStats(len(x), *(float(v) for v in (x.min(), x.max(), x.mean(), x.std())))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    first = 0
    for split, size in SIZES.items():
        write_split(root / split, range(first, first + size))
        first += size
    return root


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="lightning.pytorch")


def need_torchaudio(mode: Mode) -> None:
    if mode != "midi" and find_spec("torchaudio") is None:
        pytest.skip("torchaudio is not installed")


def command(name: str, shards: Path, runs: Path, *extra: str) -> list[str]:
    """The demo config on the test's shards, small and quiet."""
    options = {
        "data.shards": shards,
        "data.sample_rate": RATE,
        "data.clip_seconds": FRAMES / RATE,
        "data.batch_size": 8,
        "data.cache_dir": runs / "cache",
        "model.dim": 16,
        "model.n_mels": 16,
        "model.n_fft": 256,
        "trainer.default_root_dir": runs,
        "trainer.enable_progress_bar": "false",
        "trainer.max_epochs": 2,
    }
    config = ["--config", str(ROOT / "configs" / "demo.yaml")]
    return [name, *config, *(f"--{k}={v}" for k, v in options.items()), *extra]


def metrics(runs: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((runs / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=[c.stem for c in CONFIGS])
@pytest.mark.parametrize("mode", ["audio", "midi", "fusion"])
def test_every_config_loads_in_every_mode(
    config: Path, mode: Mode, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(config), "--mode", mode, "--print_config"])
    assert end.value.code == 0
    assert f"mode: {mode}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("--data.batchsize=3", "data.batchsize"),
        ("--data.batch=3", "data.batch"),  # short for data.batch_size, and no key
        ("--model.heads=many", "model.heads"),
        ("--mode=video", "mode"),
        ("--data.crop=end", "data.crop"),
        ("--model.augment.gain=1", "gain"),
        ("--model.augment.noise_snr_db=loud", "noise_snr_db"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_by_path(
    option: str, path: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(ROOT / "configs" / "demo.yaml"), option])
    assert end.value.code == 2
    assert path in capsys.readouterr().err


@pytest.mark.parametrize("minutes", [".nan", "-1"])
def test_minutes_that_cannot_be_are_refused(minutes: str, capsys: pytest.CaptureFixture[str]):
    config = ["--config", str(ROOT / "configs" / "demo.yaml")]
    with pytest.raises(SystemExit) as end:
        main(["fit", *config, f"--checkpoint_minutes={minutes}"])
    assert end.value.code == 2
    assert "checkpoint_minutes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fit", "test"])
def test_an_option_that_is_missing_is_named_as_it_is_written(
    name: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main([name])
    assert end.value.code == 2
    assert "required: --data.shards\n" in capsys.readouterr().err


def test_a_config_file_with_an_unknown_key_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "wrong.yaml"
    path.write_text("data:\n  shards: x\n  shufle: 3\n")
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(path)])
    assert end.value.code == 2
    assert "shufle" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["audio", "midi", "fusion"])
def test_fit_learns_and_leaves_figures_and_checkpoints(
    mode: Mode, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    need_torchaudio(mode)
    options = (f"--mode={mode}", "--trainer.max_epochs=6", "--model.learning_rate=0.01")
    assert main(command("fit", shards, tmp_path, *options)) == 0
    said = capsys.readouterr().out
    assert "rating at the mean" in said
    found = metrics(tmp_path)
    assert f"before training val/loss {found['before']['val/loss']:.4f}; from the first" in said
    assert found.keys() == {"before", "first", "last", "best"}
    assert found["before"]["val/mse"] == pytest.approx(found["before"]["val/mse_mean_baseline"])
    assert found["best"]["val/mse"] < found["best"]["val/mse_mean_baseline"]
    assert found["last"]["train/loss"] < found["first"]["train/loss"]
    assert {
        "val/mae/loud",
        "val/pearson/half",
        "val/spearman",
        "val/r2",
        "val/mae_mean_baseline",
    } <= found["last"].keys()
    checkpoints = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    logs = {p.name for p in (tmp_path / "logs").iterdir()}
    assert any(name.startswith("events.out.tfevents") for name in logs)


def test_a_checkpoint_is_validated_tested_and_refused_by_another_mode(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(command("fit", shards, tmp_path, "--mode=midi", "--trainer.max_epochs=1")) == 0
    (best,) = tmp_path.rglob("best.ckpt")
    for name in ("validate", "test"):
        options = (f"--ckpt_path={best}", "--mode=midi")
        capsys.readouterr()
        assert main(command(name, shards, tmp_path, *options)) == 0
        assert "mse_mean_baseline" in capsys.readouterr().out
    need_torchaudio("audio")
    options = (f"--ckpt_path={best}", "--mode=audio")
    assert main(command("validate", shards, tmp_path, *options)) == 1
    assert "--mode midi" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_refused_without_a_way_around(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "x.ckpt").write_text('{"audio_path": "x.wav"}')
    options = (f"--ckpt_path={tmp_path / 'x.ckpt'}", "--mode=midi")
    assert main(command("validate", shards, tmp_path, *options)) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "it is refused" in line
    assert "weights_only" not in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data.shards=nowhere",), "--split"),
        (("--data.dimensions=[loud,bright]",), "bright"),
        (("--model.heads=3",), "model.heads"),
        (("--model.warmup_fraction=2",), "model.warmup_fraction"),
        (("--model.wide_dropout=1.5",), "model.wide_dropout"),
        (("--model.audio_encoder=mert",), "model.audio_encoder must be mel or hf:NAME"),
        (("--model.audio_layers=[1]",), "model.audio_layers"),
    ],
)
def test_trouble_is_one_line_and_status_1(
    options: tuple[str, ...],
    said: str,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert main(command("fit", shards, tmp_path, "--mode=midi", *options)) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert said in line


def test_a_dataset_without_splits_is_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(command("fit", shards / "train", tmp_path, "--mode=midi")) == 1
    assert f"--data.shards {shards}" in capsys.readouterr().err


class Diary(Callback):
    """Which keys each step of which epoch saw."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, tuple[str, ...]]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append((trainer.current_epoch, tuple(batch["__key__"])))


def fit(
    shards: Path,
    *,
    checkpoint: Path | None = None,
    callbacks: tuple[Callback, ...] = (),
    **options: Any,
) -> tuple[list[tuple[int, tuple[str, ...]]], Rater]:
    """Two epochs of a tiny MIDI model; what it saw, and what it became."""
    seed_everything(0, verbose=False)
    data = PianoData(shards=str(shards), mode="midi", batch_size=8, shuffle="full", num_workers=2)
    size: dict[str, Any] = {"dim": 8, "layers": 1, "heads": 1, "dropout": 0.0, "wide_dropout": 0.0}
    rater = Rater(mode="midi", statistics=data.statistics, **size | options)
    diary = Diary()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[diary, *callbacks],
    )
    trainer.fit(rater, data, ckpt_path=checkpoint, weights_only=True)
    return diary.steps, rater


def test_a_resumed_run_repeats_and_skips_nothing_wherever_it_stopped(shards: Path, tmp_path: Path):
    callbacks = (
        ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(tmp_path, filename="val-{step}", monitor="val/loss", save_top_k=-1),
        ModelCheckpoint(
            tmp_path, filename="end-{step}", save_top_k=-1, save_on_train_epoch_end=True
        ),
    )
    whole, trained = fit(shards, callbacks=callbacks)
    epochs = [[k for e, keys in whole if e == epoch for k in keys] for epoch in (0, 1)]
    assert all(len(set(keys)) == len(keys) == 24 for keys in epochs)
    assert epochs[0] != epochs[1]
    for name in ("step=1", "step=2", "step=3", "val-step=3", "end-step=3", "step=5"):
        steps, resumed = fit(shards, checkpoint=tmp_path / f"{name}.ckpt")
        assert steps == whole[int(name[-1]) :], name
        for one, other in zip(resumed.parameters(), trained.parameters(), strict=True):
            assert torch.equal(one, other), name


def test_a_resumed_run_is_augmented_as_if_it_had_never_stopped(shards: Path, tmp_path: Path):
    augment = Augmentation(pitch_p=0.5, stretch_p=0.5, velocity_p=0.9)
    each = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    _, trained = fit(shards, callbacks=(each,), augment=augment)
    _, plain = fit(shards)
    _, resumed = fit(shards, checkpoint=tmp_path / "step=4.ckpt", augment=augment)
    weights = [list(rater.parameters()) for rater in (trained, resumed, plain)]
    assert all(map(torch.equal, weights[0], weights[1]))
    assert not all(map(torch.equal, weights[0], weights[2]))


def test_every_part_of_an_optimiser_has_its_rate_and_frozen_ones_have_none(shards: Path):
    own: dict[str, Any] = {"backbone_learning_rate": 1e-5, "wide_learning_rate": 1e-3}
    _, rater = fit(shards, learning_rate=1e-2, weight_decay=0.1, loss="uncertainty", **own)
    frozen = [*rater.model.join.parameters(), *rater.model.midi.parameters()][::5]
    for parameter in frozen:
        parameter.requires_grad_(False)
    made: Any = rater.configure_optimizers()
    rates = {id(p): (g["initial_lr"], g["weight_decay"]) for g in made["optimizer"].param_groups
             for p in g["params"]}  # fmt: skip
    assert not rates.keys() & {id(p) for p in frozen}
    for name, parameter in rater.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = {"midi": 1e-5, "wide": 1e-3}.get(name.split(".")[1], 1e-2)
        assert rates[id(parameter)] == (rate, 0.1 if parameter.ndim > 1 else 0.0), name
    assert rater.weighting is not None
    assert rater.weighting.log_variance.detach().all()


def test_checkpointed_gradients_are_those_of_the_whole(shards: Path):
    _, whole = fit(shards)
    _, spared = fit(shards, gradient_checkpointing=True)
    for one, other in zip(whole.parameters(), spared.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_fusion_trains_augmented_from_the_command_line(shards: Path, tmp_path: Path):
    need_torchaudio("fusion")
    augment = tmp_path / "augment.yaml"
    augment.write_text("model:\n  augment:\n    stretch_p: 0.5\n    noise_snr_db: [30.0, 40.0]\n")
    options = (f"--config={augment}", "--model.augment.gain_p=0.9", "--model.loss=uncertainty")
    assert main(command("fit", shards, tmp_path, "--trainer.max_epochs=1", *options)) == 0
    (config,) = tmp_path.rglob("config.yaml")
    text = config.read_text()
    assert "gain_p: 0.9" in text
    assert "stretch_p: 0.5" in text
    (best,) = tmp_path.rglob("best.ckpt")
    hyper_parameters = torch.load(best, weights_only=True)["hyper_parameters"]
    assert Rater(**hyper_parameters).model is not None


def test_batches_arrive_where_the_trainer_computes_if_that_is_cuda(
    shards: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Where this PyTorch finds none, the pipeline says what it was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, asked in (("cuda:1", True), ("cpu", False)):
        data = PianoData(shards=str(shards), mode="midi", batch_size=4, num_workers=0)
        trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(name)))
        data.trainer = trainer
        caplog.clear()
        data.setup("validate")
        data.teardown("validate")
        assert ("type='cuda', index=1" in caplog.text) is asked


def test_validation_sees_every_sample_once_in_every_pass(shards: Path):
    data = PianoData(shards=str(shards), mode="midi", batch_size=4, num_workers=0)
    data.setup("validate")
    loader = data.val_dataloader()
    passes = [[k for batch in loader for k in batch["__key__"]] for _ in range(2)]
    data.teardown("validate")
    assert passes[0] == passes[1]
    assert sorted(passes[0]) == ["", *(f"val-{n:03}" for n in range(26, 33))]


def test_figures_leave_out_missing_labels_and_compare_with_the_mean():
    nan = float("nan")
    ratings = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).double()
    labels = torch.tensor([[0.0, nan], [1.0, nan], [1.0, nan]]).double()
    std = torch.tensor([10.0, 1.0]).double()
    found = figures(ratings, labels, dimensions=["a", "b"], std=std)
    found = {name: value.item() for name, value in found.items()}
    assert found["mse"] == found["loss"] == pytest.approx(1 / 3)
    assert found["mse_mean_baseline"] == pytest.approx(2 / 3)
    assert found["mae/a"] == found["mae"] == pytest.approx(10 / 3)
    # torchmetrics adds 1e-6 below the fraction line
    ranks = np.corrcoef([0, 1, 2], [0, 1.5, 1.5])[0, 1]
    assert found["spearman/a"] == pytest.approx(ranks, abs=1e-5)
    assert found["pearson/a"] == pytest.approx(np.corrcoef([0, 1, 2], [0, 1, 1])[0, 1])
    assert found["r2/a"] == pytest.approx(1 - 1 / (2 / 3))
    assert np.isnan(found["pearson/b"])


def test_figures_on_other_shards_are_in_the_labels_units():
    """There, labels have another mean and deviation than where the model was trained."""
    size: dict[str, Any] = {"mode": "midi", "dim": 8, "layers": 1, "heads": 1}
    trained = Rater(statistics={"rank": {"mean": 50.0, "std": 20.0}}, **size)
    rater = Rater(statistics={"rank": {"mean": 10.0, "std": 2.0}}, **size).eval()
    rater.load_state_dict(trained.state_dict())
    batch = {
        "midi": torch.randint(1, 20, (3, 9, 8)),
        "midi_notes": torch.full((3,), 9),
        "labels": torch.tensor([[10.0], [20.0], [60.0]]),
        "weight": torch.ones(3),
    }
    with torch.no_grad():
        rater.validation_step(batch, 0)
        off = (rater(batch) - batch["labels"]).abs().mean()
    found = rater.scores.compute()
    assert float(found["mae/rank"]) == pytest.approx(float(off), rel=1e-5)


def test_the_rate_rises_then_falls_to_zero():
    rates = [warmup_cosine(step, warmup_steps=4, total_steps=20) for step in range(21)]
    assert rates[0] > 0
    assert rates[:4] == sorted(rates[:4])
    assert rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[20] == pytest.approx(0.0)


def test_the_last_checkpoint_is_the_last_state_also_where_the_loss_rises(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passes, compute = count(), Scores.compute

    def rising(self: Scores) -> dict[str, torch.Tensor]:
        return compute(self) | {"loss": torch.tensor(float(next(passes)))}

    monkeypatch.setattr(Scores, "compute", rising)
    options = ("--mode=midi", "--trainer.max_epochs=3")
    assert main(command("fit", shards, tmp_path, *options)) == 0
    (best,), (last,) = tmp_path.rglob("best.ckpt"), tmp_path.rglob("last.ckpt")
    assert torch.load(best, weights_only=True)["epoch"] == 0
    assert torch.load(last, weights_only=True)["epoch"] == 2
