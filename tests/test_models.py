"""trainer.models: ratings in the labels' units, whatever is padded, empty or missing."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.losses import masked_mse
from trainer.models import Mode, RatingModel, Scale, Size
from trainer.scores import figures

RATE = 8000
STATISTICS = {"a": {"mean": 50.0, "std": 10.0}, "b": {"mean": -3.0, "std": 0.0}}
SIZE = Size(
    dim=16, layers=1, heads=2, dropout=0.0, wide_dropout=0.0, n_mels=16, n_fft=256, hop_length=160
)
MODES: tuple[Mode, ...] = ("audio", "midi", "fusion")


def need_torchaudio(mode: Mode) -> None:
    if mode != "midi" and find_spec("torchaudio") is None:
        pytest.skip("torchaudio is not installed")


def model(mode: Mode) -> RatingModel:
    """A model whose ratings are not all the mean, as they would be before training."""
    need_torchaudio(mode)
    torch.manual_seed(0)
    made = RatingModel(mode, statistics=STATISTICS, sample_rate=RATE, size=SIZE)
    for weight in (*(head[-1].weight for head in made.heads), *made.wide.parameters()):
        torch.nn.init.normal_(weight)
    return made.eval()


def batch(*, rows: int = 3, samples: int = 4000, notes: int = 12) -> dict[str, Any]:
    """Full clips; the values of row r are the same for every number of rows."""
    clips = [torch.Generator().manual_seed(row) for row in range(rows)]
    return {
        "audio": torch.stack([torch.rand(samples, generator=c) * 2 - 1 for c in clips]),
        "audio_frames": torch.full((rows,), samples),
        "midi": torch.stack([torch.randint(0, 16, (notes, 8), generator=c) for c in clips]),
        "midi_notes": torch.full((rows,), notes),
        "labels": torch.full((rows, 2), 52.0),
        "weight": torch.ones(rows),
    }


def longer(x: Tensor, by: int) -> Tensor:
    """Zeros behind dimension 1, as the loader pads."""
    return torch.cat([x, x.new_zeros(len(x), by, *x.shape[2:])], dim=1)


@pytest.mark.parametrize("mode", MODES)
def test_one_rating_per_row_and_dimension(mode: Mode):
    ratings = model(mode)(batch())
    assert ratings.shape == (3, 2)
    assert ratings.dtype == torch.float32


@pytest.mark.parametrize("mode", MODES)
def test_an_untrained_model_rates_at_the_mean(mode: Mode):
    need_torchaudio(mode)
    made = RatingModel(mode, statistics=STATISTICS, sample_rate=RATE, size=SIZE)
    assert made(batch()).tolist() == [[50.0, -3.0]] * 3


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_needs_its_own_fields_only(mode: Mode):
    fields = {"audio": ("audio",), "midi": ("midi",), "fusion": ("audio", "midi")}[mode]
    made, whole = model(mode), batch()
    kept = {k: v for k, v in whole.items() if k.partition("_")[0] in fields}
    assert torch.equal(made(kept), made(whole))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("samples", "notes"), [(160, 1), (777, 30), (4000, 500)])
def test_longer_padding_changes_nothing(mode: Mode, samples: int, notes: int):
    made, short = model(mode), batch()
    long = short | {"audio": longer(short["audio"], samples), "midi": longer(short["midi"], notes)}
    # One row that is full, so that the padding of MIDI is not just cut off again.
    full = {
        k: torch.cat([v, batch(rows=1, samples=4000 + samples, notes=12 + notes)[k]])
        for k, v in long.items()
    }
    torch.testing.assert_close(made(full)[:3], made(short), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_padding_rows_change_no_other_row(mode: Mode):
    made, whole = model(mode), batch()
    padded = {k: torch.cat([v, torch.zeros_like(v[:1])]) for k, v in whole.items()}
    torch.testing.assert_close(made(padded)[:3], made(whole), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_empty_rows_and_missing_labels_leave_every_gradient_finite(mode: Mode):
    made, half = model(mode).train(), batch()
    half["audio_frames"][0] = half["midi_notes"][0] = 0
    half["audio"][0], half["midi"][0] = 0.0, 0
    half["labels"][1], half["weight"][2] = torch.nan, 0.0
    target = made.scale.normalise(half["labels"])
    masked_mse(made.normalised(half), target, weight=half["weight"]).backward()
    gradients = [p.grad for p in made.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_has_a_part_in_every_step_in_bfloat16_and_checkpointed(mode: Mode):
    """Or DistributedDataParallel would wait for it: also where a row lacks a modality."""
    need_torchaudio(mode)
    size = replace(SIZE, layers=2, modality_dropout=0.5, gradient_checkpointing=True)
    made = RatingModel(mode, statistics=STATISTICS, sample_rate=RATE, size=size).train()
    whole = batch()
    whole["audio_frames"][0] = whole["midi_notes"][1] = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ratings = made.normalised(whole)
    target = made.scale.normalise(whole["labels"])
    masked_mse(ratings, target, weight=whole["weight"]).backward()
    without = {name for name, p in made.named_parameters() if p.grad is None}
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


@pytest.mark.parametrize("mode", MODES)
def test_ratings_are_the_sum_of_a_deep_and_a_wide_path(mode: Mode):
    made, whole = model(mode), batch()
    both = made.normalised(whole)
    torch.nn.init.zeros_(made.heads[0][-1].weight)  # the first dimension has no deep path
    wide = made.normalised(whole)[:, 0]
    for parameter in made.wide.parameters():
        torch.nn.init.zeros_(parameter)
    assert wide.std() > 0
    assert not made.normalised(whole)[:, 0].any()
    assert not torch.allclose(both[:, 0], wide)
    assert not torch.allclose(both[:, 1], made.normalised(whole)[:, 1])


@pytest.mark.parametrize("missing", ["audio", "midi"])
def test_a_fusion_that_lacks_a_modality_has_no_figures_of_it(missing: str):
    made, half = model("fusion"), batch()
    half["audio_frames" if missing == "audio" else "midi_notes"][:] = 0
    half[missing] = torch.zeros_like(half[missing])
    rated = made(half)
    torch.nn.init.normal_(made.wide.paths[missing][2].weight)
    assert torch.equal(made(half), rated)


def test_in_training_a_fusion_lacks_a_modality_on_both_paths(monkeypatch: pytest.MonkeyPatch):
    need_torchaudio("fusion")
    monkeypatch.setattr("trainer.models.take_away", lambda audio, midi, share: (~audio, midi))
    made, whole = model("fusion"), batch()
    made.modality_dropout = 0.5
    without = batch() | {"audio": torch.zeros(3, 4000), "audio_frames": torch.zeros(3).long()}
    alone = made(without)
    assert not torch.allclose(made(whole), alone)
    torch.testing.assert_close(made.train()(whole), alone)


def test_masks_of_the_spectrogram_leave_the_figures_of_the_wide_path_alone():
    made, whole = model("audio"), batch()
    for head in made.heads:
        torch.nn.init.zeros_(head[-1].weight)
    masked = made.normalised(whole, spectrogram=torch.zeros_like)
    assert torch.equal(masked, made.normalised(whole))


def test_a_batch_without_a_single_note_is_rated():
    silent = batch() | {"midi": torch.zeros(3, 12, 8, dtype=torch.int64)}
    silent["midi_notes"] = torch.zeros(3, dtype=torch.int64)
    assert torch.isfinite(model("midi")(silent)).all()


def test_token_values_past_the_vocabulary_are_clamped():
    wild = batch() | {"midi": torch.full((3, 12, 8), 255)}
    assert torch.isfinite(model("midi")(wild)).all()


def test_every_token_column_counts():
    made, plain = model("midi"), batch()
    for column in range(8):
        changed = plain["midi"].clone()
        changed[:, :, column] = 1 - changed[:, :, column].clamp(0, 1)
        assert not torch.allclose(made(plain), made(plain | {"midi": changed})), column


def test_int16_audio_is_rated_as_its_float():
    whole = batch()
    whole["audio"] = (whole["audio"] * 32767).round() / 32768
    ints = whole | {"audio": (whole["audio"] * 32768).to(torch.int16)}
    made = model("audio")
    torch.testing.assert_close(made(ints), made(whole))


def test_a_state_dict_carries_the_units():
    made = model("midi")
    other = {name: {"mean": 0.0, "std": 1.0} for name in STATISTICS}
    copy = RatingModel("midi", statistics=other, sample_rate=RATE, size=SIZE).eval()
    copy.load_state_dict(made.state_dict())
    assert torch.equal(copy(batch()), made(batch()))


def test_a_label_that_never_varied_is_scored_in_its_own_units():
    scale = Scale({"flat": {"mean": 5.0, "std": 0.0}})
    ratings, labels = torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [2.0]])
    found = figures(ratings, labels, dimensions=["flat"], std=scale.std)
    assert float(found["mae"]) == 1.5
