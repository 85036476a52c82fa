"""trainer.fusion: a row that lacks a modality is rated by the other one, as if alone."""

import pytest
import torch
from torch import Tensor

from trainer.attention import Encoded
from trainer.fusion import Fusion, take_away

DIM = 8


def fusion() -> Fusion:
    """With its gates open, as after training."""
    torch.manual_seed(0)
    made = Fusion(DIM, heads=2)
    for ask in (made.audio_asks, made.midi_asks):
        torch.nn.init.constant_(ask.gate, 0.7)
    return made


def sequences() -> tuple[Encoded, Encoded]:
    rng = torch.Generator().manual_seed(1)
    audio, midi = (torch.randn(3, length, DIM, generator=rng) for length in (5, 7))
    return tuple(Encoded(x, torch.ones(x.shape[:2], dtype=torch.bool)) for x in (audio, midi))


def which(*rows: bool) -> Tensor:
    return torch.tensor(rows)


def test_both_modalities_count_and_hear_each_other():
    made, (audio, midi) = fusion(), sequences()
    every = which(True, True, True)
    mixed = made(audio, midi, heard=every, read=every)
    assert mixed.shape == (3, DIM)
    other = made(audio, Encoded(midi.values + 1, midi.mask), heard=every, read=every)
    assert not torch.allclose(mixed, other)
    asked = made.audio_pool(made.audio_asks(audio, midi, answers=every))
    assert not torch.allclose(asked, made.audio_pool(audio))


@pytest.mark.parametrize("missing", ["audio", "midi"])
def test_a_missing_modality_leaves_the_path_of_the_other_alone(missing: str):
    made, (audio, midi) = fusion(), sequences()
    some, every = which(True, False, True), which(True, True, True)
    heard, read = (some, every) if missing == "audio" else (every, some)
    mixed = made(audio, midi, heard=heard, read=read)
    alone = made.midi_pool(midi) if missing == "audio" else made.audio_pool(audio)
    assert torch.equal(mixed[1], alone[1])
    assert not torch.allclose(mixed[0], alone[0])


@pytest.mark.parametrize("missing", ["audio", "midi", "both"])
def test_what_is_missing_may_hold_anything(missing: str):
    made, (audio, midi) = fusion(), sequences()
    lost = which(False, True, True)
    every = which(True, True, True)
    heard = lost if missing != "midi" else every
    read = lost if missing != "audio" else every
    inputs = [x.values.clone().requires_grad_() for x in (audio, midi)]
    heard_audio, read_midi = Encoded(inputs[0], audio.mask), Encoded(inputs[1], midi.mask)
    made(heard_audio, read_midi, heard=heard, read=read).sum().backward()
    for x in (*inputs, *made.parameters()):
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
    if missing != "both":
        lost_input = inputs[0] if missing == "audio" else inputs[1]
        assert not lost_input.grad[0].any()  # type: ignore[index]


def test_modalities_are_taken_away_from_a_share_of_the_rows_and_never_both():
    torch.manual_seed(0)
    every = torch.ones(400, dtype=torch.bool)
    heard, read = take_away(every, every, share=0.5)
    assert (heard | read).all()
    assert [70 < int(n) < 130 for n in ((~heard).sum(), (~read).sum())] == [True, True]
    assert torch.equal(torch.stack(take_away(every, every, share=0.0)), torch.stack([every] * 2))


def test_a_row_that_has_one_modality_is_never_left_without():
    torch.manual_seed(0)
    heard, read = take_away(which(True, False, False), which(False, True, False), share=1.0)
    assert heard.tolist() == [True, False, False]
    assert read.tolist() == [False, True, False]
