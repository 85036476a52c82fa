"""trainer.augmentation and .augmenter: as often as asked, the same again, both modalities alike."""

from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from trainer import vocoder
from trainer.augmentation import TRANSFORMS, Augmentation, choose
from trainer.augmenter import Augmenter
from trainer.models import Mode

pytestmark = pytest.mark.skipif(
    find_spec("torchaudio") is None, reason="torchaudio is not installed"
)

RATE, ROWS, SAMPLES = 8000, 6, 4000
OFF = {f.name: 0.0 for f in fields(Augmentation) if f.name.endswith("_p")}


def batch() -> dict[str, Any]:
    """The last row is padding, the one before it a short clip of few notes."""
    rng = torch.Generator().manual_seed(0)
    frames = torch.tensor([SAMPLES] * (ROWS - 2) + [1000, 0])
    notes = torch.tensor([9] * (ROWS - 2) + [2, 0])
    audio = torch.randn(ROWS, SAMPLES, generator=rng) * 0.1
    midi = torch.randint(10, 70, (ROWS, 9, 8), generator=rng)
    return {
        "audio": torch.where(torch.arange(SAMPLES) < frames[:, None], audio, 0.0),
        "audio_frames": frames,
        "midi": torch.where((torch.arange(9) < notes[:, None])[..., None], midi, 0),
        "midi_notes": notes,
        "labels": torch.randn(ROWS, 2, generator=rng),
        "weight": (frames > 0).float(),
    }


def only(mode: Mode = "fusion", **options: Any) -> Augmenter:
    """An augmenter of what is named alone."""
    return Augmenter(Augmentation(**OFF | options), mode=mode, sample_rate=RATE, seed=5)


def changed(augmenter: Augmenter, step: int = 0, **place: int) -> Any:
    return augmenter(batch(), **{"epoch": 0, "rank": 0} | place, step=step)[0]


def chosen(settings: Augmentation, rows: int = 4000, **has: bool) -> dict[str, Any]:
    has = {"audio": True, "notes": True} | has
    return choose(settings, rows=rows, rng=np.random.default_rng(1), **has)  # type: ignore[arg-type]


def test_transforms_come_as_often_as_asked():
    found = chosen(Augmentation(max_transforms=8, gain_p=0.25, noise_p=0.0, polarity_p=1.0))
    shares = {name: len(rows) / 4000 for name, rows in found.items()}
    assert shares["polarity"] == 1.0
    assert shares["noise"] == 0.0
    assert shares["gain"] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_row_has_more_than_max_transforms_and_none_is_preferred(most: int):
    every = dict.fromkeys(OFF, 1.0)
    found = chosen(Augmentation(max_transforms=most, **every))
    counts = np.bincount(np.concatenate(list(found.values())), minlength=4000)
    assert set(counts.tolist()) == {most}
    shares = [len(rows) / 4000 for rows in found.values()]
    assert shares == pytest.approx([most / len(found)] * len(found), abs=0.04)


def test_what_a_batch_has_not_is_not_changed_and_velocity_needs_silence():
    every = Augmentation(max_transforms=8, **dict.fromkeys(OFF, 1.0))
    assert set(chosen(every)) == set(TRANSFORMS) - {"velocity"}
    assert set(chosen(every, notes=False)) == set(TRANSFORMS) - {"velocity"}
    assert set(chosen(every, audio=False)) == {"stretch", "pitch", "velocity"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain_p": 1.5}, r"model\.augment\.gain_p must be in \[0, 1\], got 1\.5"),
        ({"noise_snr_db": (30.0, 10.0)}, r"noise_snr_db must be a range"),
        ({"stretch_rate": (0.0, 1.0)}, r"stretch_rate must be above 0"),
        ({"max_transforms": -1}, r"max_transforms must be at least 0"),
        ({"mixup_alpha": 0.0}, r"mixup_alpha must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_key(options: Any, message: str):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


@pytest.mark.parametrize("mode", ["audio", "midi", "fusion"])
def test_a_batch_depends_on_seed_epoch_step_and_rank_and_on_nothing_else(mode: Mode):
    settings = Augmentation(**dict.fromkeys(OFF, 0.7))
    first, again = (Augmenter(settings, mode=mode, sample_rate=RATE, seed=5) for _ in range(2))
    changed(first, step=1)
    torch.rand(3)
    state = torch.get_rng_state()
    results = [first(batch(), epoch=2, step=7, rank=0), again(batch(), epoch=2, step=7, rank=0)]
    spectrogram = torch.ones(ROWS, 10, 50)
    for key in batch():
        assert torch.equal(results[0][0][key], results[1][0][key]), key
    assert torch.equal(*(masks(spectrogram) for _, masks in results))
    assert torch.equal(torch.get_rng_state(), state)
    field = "midi" if mode == "midi" else "audio"
    others = [changed(first, step=7, epoch=3), changed(first, step=8, epoch=2),
              changed(first, step=7, epoch=2, rank=1)]  # fmt: skip
    for other in others:
        mine = results[0][0][field]
        assert mine.shape != other[field].shape or not torch.equal(mine, other[field])


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n != "velocity"])
def test_padding_stays_padding_and_the_given_batch_as_it_was(name: str):
    given = batch()
    found, _ = only(**{f"{name}_p": 1.0})(given, epoch=0, step=0, rank=0)
    for key, value in batch().items():
        assert torch.equal(given[key], value), key
    assert torch.isfinite(found["audio"]).all()
    assert not torch.equal(found["audio"], given["audio"])
    for row, frames in enumerate(found["audio_frames"].tolist()):
        assert not found["audio"][row, frames:].any()
    assert torch.equal(found["labels"], given["labels"])
    for row, notes in enumerate(given["midi_notes"].tolist()):
        assert not found["midi"][row, notes:].any()


def test_notes_follow_the_tempo_and_clips_are_not_cut():
    found = changed(only(stretch_p=1.0, stretch_rate=(0.8, 0.8)))
    assert found["audio_frames"].tolist() == [5000] * 4 + [1250, 0]
    assert found["audio"].shape == (ROWS, 5000)
    assert torch.equal(found["midi"], vocoder.hastened(**notes(), rate=0.8))
    faster = changed(only(stretch_p=1.0, stretch_rate=(1.25, 1.25)))
    assert faster["audio"].shape == (ROWS, SAMPLES)
    assert faster["audio_frames"].tolist() == [3200] * 4 + [800, 0]


def notes() -> dict[str, Any]:
    return {"midi": batch()["midi"], "notes": batch()["midi_notes"]}


def test_notes_follow_the_pitch_or_neither_is_shifted():
    augmenter = only(pitch_p=1.0, pitch_semitones=3)
    given = batch()
    given["midi"][0, 0, 3], given["midi"][1, 0, 3] = 0, 87  # neither up nor down leaves both
    found, _ = augmenter(given, epoch=0, step=0, rank=0)
    moved = (found["midi"][:, 0, 3] - given["midi"][:, 0, 3]).tolist()
    shift = moved[2]
    assert shift in {-3, -2, -1, 1, 2, 3}
    assert sorted(moved[:2]) == sorted([0, shift])
    stayed = moved.index(0)
    assert torch.equal(found["audio"][stayed], given["audio"][stayed])
    assert not torch.equal(found["audio"][1 - stayed], given["audio"][1 - stayed])


def test_mixup_mixes_labels_as_it_mixes_audio_and_leaves_out_what_lacks_a_label():
    given = batch()
    given["labels"][1, 0] = torch.nan  # so that row 2, which follows it, stays alone
    found, _ = only("audio", mixup_p=1.0)(given, epoch=0, step=0, rank=0)
    for row in (1, 3, 4):
        other = row - 1
        first = given["audio"][row, 0], given["audio"][other, 0]
        own = (found["audio"][row, 0] - first[1]) / (first[0] - first[1])
        assert 0.5 <= own < 1.0
        expected = own * given["labels"][row, 1] + (1 - own) * given["labels"][other, 1]
        torch.testing.assert_close(found["labels"][row, 1], expected, atol=1e-3, rtol=1e-3)
    assert found["audio_frames"].tolist() == [SAMPLES] * 5 + [0]
    # Row 0 follows the padding.
    for row in (0, 2):
        assert torch.equal(found["audio"][row], given["audio"][row])


def test_mixup_of_notes_is_said_to_be_none(caplog: pytest.LogCaptureFixture):
    augmenter = only("fusion", mixup_p=1.0)
    assert "mixup_p" in caplog.text
    assert torch.equal(changed(augmenter)["labels"], batch()["labels"])


def test_masks_flatten_bands_of_the_rows_chosen():
    _, masks = only(masks_p=1.0, masks=2, mask_time=0.2, mask_mel=0.2)(
        batch(), epoch=0, step=0, rank=0
    )
    found = masks(torch.ones(ROWS, 20, 50))
    whole_bands = (found == 0).all(dim=2).sum(dim=1)
    whole_frames = (found == 0).all(dim=1).sum(dim=1)
    assert int(whole_bands.max()) <= 8
    assert int(whole_frames.max()) <= 20
    assert int(whole_bands.sum()) > 0
    assert int(whole_frames.sum()) > 0
    assert len({tuple(row.flatten().tolist()) for row in found}) > 1
    _, none = only()(batch(), epoch=0, step=0, rank=0)
    assert none(torch.ones(ROWS, 20, 50)).all()


def test_int16_audio_is_changed_as_its_float():
    given = batch()
    given["audio"] = (given["audio"] * 32767).round() / 32768
    ints = given | {"audio": (given["audio"] * 32768).to(torch.int16)}
    augmenter = only(gain_p=1.0)
    found = [augmenter(b, epoch=0, step=0, rank=0)[0]["audio"] for b in (given, ints)]
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: what waits for it does not show")
def test_nothing_but_a_change_of_tempo_or_pitch_waits_for_the_gpu():
    names = [name for name in OFF if name not in ("stretch_p", "pitch_p")]
    augmenter = only("audio", **dict.fromkeys(names, 1.0), max_transforms=9)
    there = {name: value.cuda() for name, value in batch().items()}
    augmenter(there, epoch=0, step=0, rank=0)  # loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        augmenter(there, epoch=0, step=1, rank=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
