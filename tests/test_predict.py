"""python -m trainer predict: shards as validation sees them, recordings window by window."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus import SAMPLE_RATE, write_annotations, write_midi, write_sound

from loader import make_pipeline
from packer.build import build
from packer.options import Options
from trainer import recordings
from trainer.__main__ import main
from trainer.models import Mode
from trainer.module import Rater
from trainer.recordings import Recording, Window, batches, cut, pair, starts

STATISTICS = {"rank": {"mean": 50.0, "std": 20.0}, "odd": {"mean": 0.5, "std": 0.5}}
CLIP = 0.5


def checkpoint(path: Path, mode: Mode) -> Path:
    """A model that rates different clips differently, as fit would keep it."""
    torch.manual_seed(0)
    rater = Rater(
        mode=mode,
        statistics=STATISTICS,
        sample_rate=SAMPLE_RATE,
        dim=16,
        layers=1,
        n_mels=16,
        n_fft=256,
        hop_length=64,
    )
    for head in rater.model.heads:
        torch.nn.init.normal_(head[-1].weight)  # type: ignore[index, arg-type]
    held = {
        "state_dict": rater.state_dict(),
        "hyper_parameters": dict(rater.hparams),
        "datamodule_hyper_parameters": {"clip_seconds": CLIP, "max_notes": 32},
    }
    torch.save(held, path)
    return path


def predicted(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 7 whole recordings of a second, and the files that they were made of."""
    folder = tmp_path_factory.mktemp("predict")
    path = write_annotations(folder, samples=7, seconds=1.0)
    options = Options(sample_rate=SAMPLE_RATE)
    build(path, str(folder / "shards"), options=options, workers=0, progress=False)
    return folder


@pytest.mark.parametrize("mode", ["audio", "midi", "fusion"])
def test_shards_are_rated_as_in_validation(corpus: Path, tmp_path: Path, mode: Mode):
    model, out = checkpoint(tmp_path / "model.ckpt", mode), tmp_path / "out.jsonl"
    assert run("--checkpoint", model, "--shards", corpus / "shards", "--out", out) == 0
    lines = predicted(out)
    held = torch.load(model, weights_only=True)
    rater = Rater(**held["hyper_parameters"]).eval()
    rater.load_state_dict(held["state_dict"])
    options: dict[str, Any] = {"shuffle": 0, "crop": "center", "clip_seconds": CLIP}
    with make_pipeline(
        corpus / "shards",
        batch_size=7,
        sample_rate=SAMPLE_RATE,
        max_notes=32,
        **options,
    ) as pipe:
        (batch,) = pipe
    with torch.no_grad():
        expected = rater(batch)
    assert [line["key"] for line in lines] == batch["__key__"]
    found = torch.tensor([list(line["ratings"].values()) for line in lines])
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)
    assert len({tuple(line["ratings"].values()) for line in lines}) > 1
    assert all(line["windows"] == 1 and line["spread"] is None for line in lines)


def test_a_recording_is_the_mean_of_its_windows_with_their_spread(corpus: Path, tmp_path: Path):
    model, out = checkpoint(tmp_path / "model.ckpt", "fusion"), tmp_path / "out.jsonl"
    files = [corpus / "audio" / "0001.wav", corpus / "midi" / "0001.mid"]
    assert run("--checkpoint", model, *files, "--out", out, "--hop", 0.25) == 0
    (line,) = predicted(out)
    assert line["audio_path"] == str(files[0])
    assert line["midi_path"] == str(files[1])
    assert line["windows"] == 3
    held = torch.load(model, weights_only=True)
    rater = Rater(**held["hyper_parameters"]).eval()
    rater.load_state_dict(held["state_dict"])
    window = Window(CLIP, 0.25, SAMPLE_RATE, 32)
    with torch.no_grad():
        rated = [rater(one)[0] for one in cut(Recording(*files), window, mode="fusion")]
    values = torch.stack(rated).double()
    mean, spread = values.mean(dim=0), values.std(dim=0, correction=0)
    assert list(line["ratings"].values()) == pytest.approx(mean.tolist(), rel=1e-3, abs=1e-3)
    assert list(line["spread"].values()) == pytest.approx(spread.tolist(), rel=1e-2, abs=1e-3)
    assert line["spread"]["rank"] > 0


def test_a_fusion_model_rates_what_has_one_modality_alone_and_says_so(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model, out = checkpoint(tmp_path / "model.ckpt", "fusion"), tmp_path / "out.jsonl"
    files = [corpus / "audio" / "0001.wav", corpus / "midi" / "0002.mid"]
    assert run("--checkpoint", model, *files, "--out", out) == 0
    heard, read = predicted(out)
    assert set(heard) == {"audio_path", "ratings", "spread", "windows"}
    assert set(read) == {"midi_path", "ratings", "spread", "windows"}
    note = f"{files[0]} and {files[1]} are rated as two recordings; if they are one, give them one"
    assert note in capsys.readouterr().err
    assert run("--checkpoint", model, files[0], "--out", out) == 0
    assert "two recordings" not in capsys.readouterr().err


def test_audio_and_midi_of_one_name_are_one_recording(tmp_path: Path):
    names = ("a/x.wav", "a/x.mid", "b/x.wav", "b/x.mid", "b/y.wav", "a/y.mid", "b/z.wav")
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = pair(paths, mode="fusion")
    assert [(r.audio, r.midi) for r in found] == [
        (paths[0], paths[1]),
        (paths[2], paths[3]),
        (paths[4], paths[5]),
        (paths[6], None),
    ]


def test_windows_hold_what_sounds_in_them(tmp_path: Path):
    write_sound(tmp_path / "x.wav", seconds=1.2)
    write_midi(tmp_path / "x.mid", onsets=np.array([0.0, 0.6, 1.0]))
    (recording,) = pair([tmp_path / "x.wav", tmp_path / "x.mid"], mode="fusion")
    rows = list(cut(recording, Window(CLIP, CLIP, SAMPLE_RATE, 32), mode="fusion"))
    assert [int(row["audio_frames"][0]) for row in rows] == [4000, 4000, 4000]
    assert [int(row["midi_notes"][0]) for row in rows] == [1, 1, 2]
    assert rows[0]["audio"].shape == (1, 4000)
    assert rows[0]["midi"].shape == (1, 32, 8)


def test_windows_are_made_as_they_are_rated_of_files_read_once(tmp_path: Path, monkeypatch):
    """Those of two hours, a second apart, would take 7 GB."""
    write_midi(tmp_path / "x.mid", onsets=np.arange(20) / 2)
    (recording,) = pair([tmp_path / "x.mid"], mode="midi")
    parsed, made = [], []
    parse, notes_of = recordings.parse_midi, recordings.notes_of
    monkeypatch.setattr(recordings, "parse_midi", lambda data: parsed.append(1) or parse(data))
    monkeypatch.setattr(
        recordings, "notes_of", lambda score, **at: made.append(at) or notes_of(score, **at)
    )
    together = batches(cut(recording, Window(CLIP, CLIP, SAMPLE_RATE, 32), mode="midi"), 2)
    assert next(together)["midi_notes"].tolist() == [1, 1]
    assert [at["start_s"] for at in made if at] == [0.0, CLIP]
    assert len(list(together)) > 5
    assert len(parsed) == 1


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, [0.0]), (0.3, [0.0]), (10.0, [0.0]), (20.0, [0.0, 10.0]), (23.0, [0.0, 10.0, 13.0])],
)
def test_all_of_a_recording_lies_in_a_window(seconds: float, expected: list[float]):
    assert starts(seconds, window_s=10.0, hop_s=10.0) == expected


@pytest.mark.parametrize(
    ("mode", "arguments", "said"),
    [
        ("midi", ["none.mid"], "none.mid: no such file"),
        ("midi", ["model.ckpt"], "neither audio nor MIDI"),
        ("audio", ["x.mid"], "the model takes audio"),
        ("midi", ["x.wav"], "the model takes MIDI"),
        ("midi", ["damaged.mid"], "damaged.mid: not a readable MIDI file"),
        ("audio", ["damaged.wav"], "damaged.wav: miniaudio"),
        ("midi", [], "either FILES or --shards"),
        ("midi", ["--shards", "nowhere"], "nowhere: no such dataset"),
        ("midi", ["x.mid", "--hop", "0"], "--hop must be positive"),
        ("midi", ["x.mid", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        ("midi", ["x.mid", "--device", "gpu9"], "--device gpu9: "),
        ("midi", ["x.mid", "--device", "cuda:99"], "--device cuda:99: "),
        ("audio", ["x.wav", "x.flac"], "the same recording"),
        ("midi", ["folder"], "folder: is a folder; name the files in it, as in folder/*.flac"),
        ("midi", ["x.mid", "--out", "folder"], "--out folder: is a folder; name a file in it"),
        (
            "midi",
            ["x.mid", "--out", "x.mid/a.jsonl"],
            "a.jsonl: cannot be written: Not a directory",
        ),
        ("midi", ["none.mid", "--out", "/proc/a.jsonl"], "--out /proc/a.jsonl: cannot be written"),
    ],
)
def test_what_cannot_be_rated_is_one_line(
    mode: Mode,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("model.ckpt"), mode)
    write_midi(tmp_path / "x.mid", onsets=np.array([0.0]))
    for name in ("x.wav", "x.flac"):
        write_sound(tmp_path / name, seconds=0.5)
    for name in ("damaged.mid", "damaged.wav"):
        (tmp_path / name).write_bytes(b"no such thing")
    Path("folder").mkdir()
    assert run("--checkpoint", "model.ckpt", "--out", "out.jsonl", *arguments) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert said in line
    assert "BytesIO" not in line
    assert not Path("out.jsonl").exists()


def test_a_checkpoint_of_an_earlier_model_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("model.ckpt"), "midi")
    held = torch.load("model.ckpt", weights_only=True)
    del held["hyper_parameters"]["wide_dropout"]
    torch.save(held, "model.ckpt")
    write_midi(tmp_path / "x.mid", onsets=np.array([0.0]))
    assert run("--checkpoint", "model.ckpt", "x.mid", "--out", "out.jsonl") == 1
    assert "an earlier model, without a wide path" in capsys.readouterr().err


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("sprung").touch, ())


@pytest.mark.parametrize("content", ["missing", "empty", "text", "tensors", "code"])
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(
    content: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    write_midi(tmp_path / "x.mid", onsets=np.array([0.0]))
    if content == "empty":
        Path("model.ckpt").touch()
    elif content == "text":
        Path("model.ckpt").write_text('{"audio_path": "x.wav"}\n')
    elif content != "missing":
        torch.save({"x": torch.ones(1) if content == "tensors" else Trap()}, "model.ckpt")
    assert run("--checkpoint", "model.ckpt", "x.mid", "--out", "out.jsonl") == 1
    said = capsys.readouterr().err
    assert "model.ckpt" in said
    assert "weights_only" not in said, "how to run its code all the same"
    assert not Path("sprung").exists()


@pytest.mark.parametrize("option", ["--window", "--hop"])
def test_a_window_that_is_no_number_is_told_at_once(
    option: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        run("--checkpoint", "x.ckpt", "--out", "out.jsonl", "x.mid", f"{option}=nan")
    assert f"argument {option}: 'nan' is no number" in capsys.readouterr().err
