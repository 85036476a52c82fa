"""python -m trainer preflight: every trouble is named, with the command that mends it."""

import json
import os
import re
import shutil
import sys
import threading
import weakref
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from corpus import SAMPLE_RATE, write_annotations

from loader import finding, places
from loader.backends import Backend
from loader.disk import ReadRate
from loader.finding import Finding
from packer.build import build
from packer.options import Options
from shards.manifest import NAME, dump_manifest, load_manifest
from shards.reader import ShardReader
from trainer import checks, preflight_machine, preflight_model
from trainer.memory import OutOfMemoryError, largest
from trainer.module import Rater
from trainer.plan import known_keys
from trainer.preflight import findings, main, read_plan
from trainer.preflight_loading import Loaded, judge_loading
from trainer.preflight_machine import cache_bytes, judge_cache_room, mixed
from trainer.preflight_model import check_step, too_large
from trainer.preflight_shards import open_splits
from trainer.trial import Step

ROOT = Path(__file__).parent.parent
pytestmark = [
    # Lightning calls a function that torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and val, of 24 and 8 samples; every fourth lacks one of two labels."""
    folder = tmp_path_factory.mktemp("preflight")
    options = Options(
        sample_rate=SAMPLE_RATE, split={"train": 0.75, "val": 0.25}, shard_bytes=10**5
    )
    path = write_annotations(folder, samples=32, seconds=0.5)
    build(path, str(folder / "shards"), options=options, workers=0, progress=False)
    return folder / "shards"


def options(shards: Path | str, folder: Path, **changed: object) -> list[str]:
    """Arguments of a run of the demo config, small."""
    values = {
        "out": folder / "run",
        "data.shards": shards,
        "data.sample_rate": SAMPLE_RATE,
        "data.clip_seconds": 0.5,
        "data.batch_size": 4,
        "data.cache_dir": folder / "cache",
        "model.dim": 16,
        "model.n_mels": 16,
        "model.n_fft": 256,
        **{name.replace("__", "."): value for name, value in changed.items()},
    }
    config = ["--config", str(ROOT / "configs" / "demo.yaml"), "--mode=midi"]
    return [*config, *(f"--{name}={value}" for name, value in values.items())]


def bad(found: list[Finding]) -> dict[str, Finding]:
    """What failed, by subject; each has a remedy."""
    failures = {one.subject: one for one in reversed(found) if one.state == "fail"}
    assert all(one.remedy for one in failures.values()), failures
    return failures


def looked(arguments: list[str]) -> list[Finding]:
    return list(findings(arguments, short=True))


def test_a_sound_run_passes_and_tells_what_it_will_be_like(shards, tmp_path, capsys):
    assert main("preflight", [*options(shards, tmp_path), "--mode=fusion", "--json"]) == 0
    found = {one["subject"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["train shards"]["text"].startswith("24 samples in ")
    assert "read in place" in found["where it lies"]["text"]
    assert "20 of them to the same by this loader" in found["audio"]["text"]
    assert "20 of them to the same by symusic" in found["MIDI"]["text"]
    assert all(f"{mode} 0." in found["models"]["text"] for mode in ("audio", "midi", "fusion"))
    assert "6 batches an epoch" in found["loading"]["text"]
    assert found["training step"]["text"].startswith("4 samples in ")
    assert "the model sets the pace" in found["epoch"]["text"]
    assert {one["state"] for one in found.values()} <= {"pass", "warn"}


def test_a_table_has_the_remedy_below_what_failed(tmp_path, capsys):
    assert main("preflight", options(tmp_path / "none", tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith("fail  train shards")]
    assert lines[at + 1].strip().startswith("-> python -m packer build")
    assert lines[-1].startswith("2 to mend")  # the val split, too


def test_no_shards(tmp_path):
    found = bad(looked(options(tmp_path / "none", tmp_path)))
    assert "there is no manifest.json" in found["train shards"].text
    assert f"--out {tmp_path}/none --split" in found["train shards"].remedy


def test_drive_that_is_not_mounted(tmp_path):
    found = bad(looked(options("/content/drive/MyDrive/shards", tmp_path)))
    assert "Drive is not mounted" in found["train shards"].text
    assert "drive.mount" in found["train shards"].remedy


def test_a_run_on_drive_that_is_not_mounted(shards, tmp_path):
    found = bad(looked(options(shards, tmp_path, out="/content/drive/MyDrive/run")))
    assert "Drive is not mounted" in found["run folder"].text
    assert "drive.mount" in found["run folder"].remedy


def test_shards_that_are_read_slowly(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "sample_reads", lambda files: ReadRate(0.15, 2e6))
    found = {one.subject: one for one in looked(options(shards, tmp_path))}
    assert "150.0 ms to open a file" in found["where it lies"].text
    stage = f"python -m loader stage {shards}/train --cache-dir {tmp_path}/cache"
    assert found["where it lies"].remedy == stage


def test_a_dataset_without_splits(shards, tmp_path):
    shutil.copytree(shards / "train", tmp_path / "one")
    found = bad(looked(options(tmp_path / "one", tmp_path)))
    assert "without splits" in found["train shards"].text
    assert f"--out {tmp_path}/one-split --split" in found["train shards"].remedy


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_split_in_place_of_all_is_told_the_folder_above(shards, tmp_path, split):
    found = bad(looked(options(shards / split, tmp_path)))
    assert set(found) == {"train shards"}
    assert f"{split} is one split" in found["train shards"].text
    assert found["train shards"].remedy == f"--data.shards {shards}"


def test_no_val_split(shards, tmp_path):
    shutil.copytree(shards / "train", tmp_path / "shards" / "train")
    found = bad(looked(options(tmp_path / "shards", tmp_path)))
    assert set(found) == {"val shards"}
    assert "--data.val_shards" in found["val shards"].remedy


def test_a_missing_dimension(shards, tmp_path):
    found = bad(looked(options(shards, tmp_path, data__dimensions="[rank,bright]")))
    assert "train has no rating of bright" in found["labels"].text
    assert found["labels"].remedy == "--data.dimensions [rank]"
    found = bad(list(findings(options(shards, tmp_path, data__dimensions="[bright,dark]"))))
    assert set(found) == {"labels"}, "told once"
    assert found["labels"].remedy == "--data.dimensions [rank,odd]"


def of_labels(arguments: list[str]) -> list[Finding]:
    return [one for one in looked(arguments) if one.subject == "labels"]


def rated_in(shards: Path, split: str, count: int) -> None:
    """Have a manifest say that so many samples are rated in the odd label."""
    path = shards / split / NAME
    manifest = load_manifest(path.read_bytes(), name=split)
    labels = {**manifest.labels, "odd": replace(manifest.labels["odd"], count=count)}
    path.write_bytes(dump_manifest(replace(manifest, labels=labels)))


def test_that_some_samples_lack_a_label_is_told_and_no_trouble(shards, tmp_path):
    (found,) = of_labels(options(shards, tmp_path))
    assert found.state == "ok"
    assert re.fullmatch(r"2 dimensions: rank, odd \(rated in \d+ of 24\)", found.text)
    assert not found.remedy


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("val", 0)])
def test_a_label_that_nearly_all_samples_lack_is_a_warning(shards, tmp_path, split, count):
    """What is told then leaves the splits as they are."""
    shutil.copytree(shards, tmp_path / "shards")
    rated_in(tmp_path / "shards", split, count)
    (found,) = of_labels(options(tmp_path / "shards", tmp_path))
    assert found.state == "warn"
    assert f"{split} samples, rated in odd {count}" in found.text
    assert found.remedy.startswith("--data.dimensions [rank]; or")
    assert f"--out {tmp_path}/shards-rated --split" in found.remedy
    assert "--overwrite" not in found.remedy


def test_broken_audio_is_named_by_sample_and_shard(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "shards")
    tar = sorted((tmp_path / "shards" / "train").glob("*.tar"))[0]
    with ShardReader(tar) as reader:
        (member,) = [m for m in reader.members(0) if m.extension == "flac"]
    with tar.open("r+b") as file:
        file.seek(member.start + member.size // 2)
        file.write(b"\xff" * 64)
    found = bad(list(findings([*options(tmp_path / "shards", tmp_path), "--mode=audio"])))
    assert f"sample {member.key} of {tar}" in found["audio"].text
    assert f"packer verify {tmp_path}/shards/train --repair" in found["audio"].remedy


def test_a_gpu_that_is_asked_for_and_not_there(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = bad(looked(options(shards, tmp_path, trainer__accelerator="gpu")))
    assert "trainer.accelerator: gpu" in found["GPU"].text
    assert found["GPU"].remedy == "--trainer.accelerator auto"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    found = bad(looked(options(shards, tmp_path, trainer__accelerator="gpu")))
    assert "Change runtime type" in found["GPU"].remedy


def test_a_full_disk(shards, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**11, 10**11, 1000))
    found = bad(looked(options(shards, tmp_path, data__cache="decoded")))
    assert "0.0 free" in found["cache"].text
    assert found["cache"].remedy.endswith("--data.cache_dir /another/disk")


@pytest.mark.parametrize(
    ("free", "state"),
    [(30 * 10**9, "ok"), (17 * 10**9 // 2, "warn"), (5 * 10**9, "warn"), (10**9, "fail")],
)
def test_what_is_cached_already_needs_no_more_room(tmp_path, monkeypatch, free, state):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**11, 10**11, free))
    (tmp_path / "dataset").mkdir()
    with (tmp_path / "dataset" / "0.tar").open("wb") as file:
        file.truncate(12 * 10**9)
    found = judge_cache_room(tmp_path, 20 * 10**9, least=14 * 10**9)
    assert found.state == state
    assert ("fetched again" in found.text) == (free == 5 * 10**9)


@pytest.mark.parametrize(("shuffle", "share"), [("full", 1.0), (8, 0.25), (0, 0.125), (99, 1.0)])
def test_what_is_in_use_at_a_time_is_the_window(shards, tmp_path, shuffle, share):
    plan = read_plan(options(shards, tmp_path, data__shuffle=shuffle))
    assert mixed(plan, open_splits(plan)[0]) == share


def test_the_room_for_a_cache_follows_from_the_manifests_that_were_read(shards, tmp_path):
    """Where they lie far away, reading them again takes as long again."""
    shutil.copytree(shards, tmp_path / "shards")
    plan = read_plan(options(tmp_path / "shards", tmp_path, data__cache_mount="true"))
    opened, _ = open_splits(plan)
    shutil.rmtree(tmp_path / "shards")
    sizes = [tar.stat().st_size for split in opened for tar in (shards / split).glob("*.tar")]
    assert cache_bytes(plan, opened) == sum(sizes) > 0


def test_a_mount_that_wakes_up_is_waited_for(shards, tmp_path, monkeypatch):
    asked: dict[str, float] = {}

    def survive(subject: str, check: object, *, patience_s: float = 0.0) -> list[Finding]:
        asked[subject] = patience_s
        return []

    monkeypatch.setattr(checks, "survive", survive)
    list(checks.examine(read_plan(options(shards, tmp_path)), short=True))
    assert all(asked[name] >= 60 for name in ("run folder", "shards", "disk"))


def test_a_step_that_does_not_end_has_a_remedy_and_is_left_behind(
    shards, tmp_path, monkeypatch, capsys
):
    """Torn down with the process, PyTorch's threads would abort it."""
    ended, statuses = threading.Event(), []

    def survive(subject: str, check: finding.Check, *, patience_s: float) -> list[Finding]:
        short = 0.1 if subject == "training step" else patience_s
        return finding.survive(subject, check, patience_s=short)

    def hang(look: object) -> Iterator[Finding]:
        ended.wait()
        yield from ()

    monkeypatch.setattr(checks, "survive", survive)
    monkeypatch.setattr(checks._Look, "_step", hang)
    monkeypatch.setattr(os, "_exit", statuses.append)
    main("preflight", options(shards, tmp_path))
    ended.set()
    assert statuses == [1]
    lines = capsys.readouterr().out.splitlines()
    (at,) = [n for n, line in enumerate(lines) if "does not answer" in line]
    assert lines[at].startswith("fail  training step")
    assert "-> a smaller --data.batch_size" in lines[at + 1]


def test_without_shards_no_step_is_tried(tmp_path, monkeypatch):
    """It may take minutes, and would tell nothing of what is to be mended first."""
    tried = []
    monkeypatch.setattr(checks, "check_step", lambda *_, **__: tried.append(1) or ())
    found = bad(list(findings(options("/content/drive/MyDrive/shards", tmp_path))))
    assert set(found) == {"train shards"}
    assert not tried


@pytest.mark.parametrize("mode", ["audio", "fusion"])
def test_shards_that_lack_what_the_mode_takes_are_told_the_mode(shards, tmp_path, mode):
    shutil.copytree(shards, tmp_path / "shards")
    for split in ("train", "val"):
        path = tmp_path / "shards" / split / NAME
        manifest = load_manifest(path.read_bytes(), name=split)
        path.write_bytes(dump_manifest(replace(manifest, fields={"midi": "mid"})))
    found = bad(list(findings([*options(tmp_path / "shards", tmp_path), f"--mode={mode}"])))
    assert set(found) == {"mode"}
    assert found["mode"].text == f"train has no audio, which --mode {mode} takes; it has midi"
    assert found["mode"].remedy == "--mode midi"


def test_torchaudio_that_does_not_import(shards, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "packages" / "torchaudio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('libcudart.so.12: cannot open')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    found = bad(list(findings([*options(shards, tmp_path), "--mode=audio"])))
    assert "libcudart.so.12" in found["torchaudio"].text
    assert found["torchaudio"].remedy.startswith("pip install")
    assert "libcudart.so.12" in found["audio model"].text
    assert not bad(looked(options(shards, tmp_path))), "MIDI alone does without"


def test_torchaudio_without_its_binary_is_told_to_be_enough(shards, tmp_path, monkeypatch):
    reason = "its binary does not load; its Python transforms work without it"
    found = Backend("torchaudio", "2.11.0", works=True, reason=reason, remedy="pip install it")
    monkeypatch.setattr(preflight_machine, "report", lambda: (found,))
    (told,) = preflight_machine.check_torchaudio(read_plan(options(shards, tmp_path)))
    assert told.text == f"2.11.0 has all that training needs: {reason}"
    assert told.state == "ok"


def test_a_wrong_key_names_the_one_that_was_meant(shards, tmp_path):
    found = bad(looked([*options(shards, tmp_path), "--data.batchsize=3"]))
    assert found["config"].text == "there is no key data.batchsize"
    assert "data.batch_size" in found["config"].remedy
    found = bad(looked([*options(shards, tmp_path), "--earlystopping=3"]))
    assert found["config"].remedy == "write early_stopping instead"
    found = bad(looked([*options(shards, tmp_path), "--data.shard=elsewhere"]))
    assert found["config"].remedy == "write data.shards instead"
    found = bad(looked([*options(shards, tmp_path), "--model.heads=many"]))
    assert "model.heads" in found["config"].text


def test_only_keys_that_can_be_set_are_proposed():
    assert not {"model.mode", "model.statistics", "data.mode", "trainer.callbacks"} & set(
        known_keys()
    )


def test_a_model_that_cannot_be_built(shards, tmp_path):
    found = bad(list(findings(options(shards, tmp_path, model__heads=3))))
    assert "model.heads" in found["midi model"].text
    assert "training step" not in found


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_an_encoder_of_another_sample_rate(shards, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    encoder = {"model__audio_encoder": f"hf:{tmp_path}"}
    found = bad(list(findings([*options(shards, tmp_path, **encoder), "--mode=audio"])))
    assert f"trained on 16000 Hz, data.sample_rate is {SAMPLE_RATE}" in found["audio model"].text
    assert found["audio model"].remedy == "--data.sample_rate 16000"


def test_a_step_with_augmentation_is_tried_too(shards, tmp_path):
    found = list(findings([*options(shards, tmp_path), "--model.augment.noise_p=1.0"]))
    assert "training step" in {one.subject for one in found if one.state == "ok"}


@pytest.mark.parametrize("where", ["file/run", "/proc/run"])
def test_a_run_folder_that_cannot_be_written(shards, tmp_path, where):
    (tmp_path / "file").write_text("")
    found = bad(looked(options(shards, tmp_path, out=tmp_path / where)))
    assert "cannot be written" in found["run folder"].text
    assert found["run folder"].remedy.startswith("--out")


def test_a_batch_larger_than_the_data(shards, tmp_path):
    found = bad(looked(options(shards, tmp_path, data__batch_size=32)))
    assert "24 training samples make no batch of 32" in found["batches"].text
    assert "--data.batch_size" in found["batches"].remedy


def test_batches_ahead_that_outgrow_memory(shards, tmp_path):
    arguments = options(shards, tmp_path, data__batch_size=10**8, data__drop_last="false")
    found = bad(looked(arguments))
    assert "are free" in found["memory"].text


def test_a_batch_too_large_for_the_cpu_is_told_before_it_is_run(shards, tmp_path):
    """A step that outgrows a CPU's memory would take this process with it."""
    plan = read_plan(options(shards, tmp_path))
    statistics = {"rank": {"mean": 0.5, "std": 0.3}}
    batch = preflight_model.made_up(plan, statistics, rows=1)
    (found,) = check_step(plan, statistics, batch, free_bytes=1)
    assert found.state == "fail"
    assert "model.dim" in found.remedy


def test_a_batch_too_large_for_a_gpu_is_bisected(shards, tmp_path, monkeypatch):
    def try_step(plan, statistics, batch):
        if len(batch["__key__"]) > 6:
            raise OutOfMemoryError("CUDA out of memory")
        return Step(0.1, 10**9)

    monkeypatch.setattr(preflight_model, "try_step", try_step)
    monkeypatch.setattr(preflight_model, "on_cuda", lambda plan: True)
    plan = read_plan(options(shards, tmp_path, data__batch_size=16))
    statistics = {"rank": {"mean": 0.5, "std": 0.3}}
    batch = preflight_model.made_up(plan, statistics, rows=2)
    (found,) = check_step(plan, statistics, batch)
    assert "a batch of 16 does not fit (CUDA out of memory); the largest that does is 6" in (
        found.text
    )
    assert "--data.batch_size 4 --trainer.accumulate_grad_batches 4" in found.remedy


@pytest.mark.parametrize("most", [0, 1, 5, 14, 15])
def test_the_largest_batch_that_fits_is_found(most):
    assert largest(lambda rows: rows <= most, most=15) == most


def test_a_remedy_keeps_the_step_as_large_as_it_was(shards, tmp_path):
    changed = {"data__batch_size": 12, "trainer__accumulate_grad_batches": 2}
    found = too_large(read_plan(options(shards, tmp_path, **changed)), 5, "of 1 GB")
    assert "--data.batch_size 4 --trainer.accumulate_grad_batches 6" in found.remedy
    assert "the same 24 a step" in found.remedy


def test_a_step_that_fails_leaves_its_memory_to_the_next(shards, tmp_path, monkeypatch):
    """On a GPU a smaller batch would be tried with only what the failed one leaves."""
    held = []

    def training_step(self, batch, batch_idx):
        assert not [one for one in held if one() is not None]
        held.append(weakref.ref(self))
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(Rater, "training_step", training_step)
    monkeypatch.setattr(preflight_model, "on_cuda", lambda plan: True)
    plan = read_plan(options(shards, tmp_path))
    statistics = {"rank": {"mean": 0.5, "std": 0.3}}
    batch = preflight_model.made_up(plan, statistics, rows=2)
    with pytest.raises(OutOfMemoryError) as failed:
        preflight_model.try_step(plan, statistics, batch)
    assert held[0]() is None, failed
    (found,) = check_step(plan, statistics, batch)
    assert "CUDNN_STATUS_ALLOC_FAILED); the largest that does is 0" in found.text


def test_loading_is_judged_by_its_target(shards, tmp_path):
    plan = read_plan(options(shards, tmp_path))
    assert judge_loading(Loaded(0.1, 0.4, 100, {}), plan).state == "ok"
    slow = judge_loading(Loaded(9.0, 2.5, 100, {}), plan)
    assert slow.state == "warn"
    assert "loader stage" in slow.remedy
