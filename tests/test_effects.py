"""trainer.effects and trainer.vocoder: sound changes as asked, and the notes with it."""

import math
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from loader.backends import import_torchaudio
from trainer import effects, vocoder

pytestmark = pytest.mark.skipif(
    find_spec("torchaudio") is None, reason="torchaudio is not installed"
)

RATE = 8000


def tones(*hertz: float, seconds: float = 1.0) -> Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    return torch.stack([0.3 * torch.sin(2 * math.pi * f * time) for f in hertz])


def noise(rows: int, samples: int = RATE) -> Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(0)) * 0.1


def loudest_hertz(audio: Tensor) -> list[float]:
    spectrum = torch.fft.rfft(audio * torch.hann_window(audio.shape[1]), n=8 * RATE).abs()
    return (spectrum.argmax(dim=1) / 8).tolist()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gain_is_in_decibels():
    audio = noise(2)
    found = effects.louder(audio, db=torch.tensor([20.0, -6.0206]))
    torch.testing.assert_close(found, audio * torch.tensor([[10.0], [0.5]]))


def test_noise_has_the_ratio_asked_for_over_the_real_samples():
    audio, frames = noise(3), torch.tensor([RATE, RATE // 2, 0])
    audio[1, RATE // 2 :] = 0
    audio[2] = 0
    wanted = torch.tensor([10.0, 30.0, 20.0])
    found = effects.noisy(audio, frames=frames, snr_db=wanted, generator=generator())
    for row in (0, 1):
        n = int(frames[row])
        power = audio[row, :n].square().mean() / (found - audio)[row, :n].square().mean()
        assert 10 * math.log10(power) == pytest.approx(float(wanted[row]), abs=0.01)
    assert torch.equal(found[2], audio[2])


def test_silence_stays_silent_and_finite():
    silence, frames = torch.zeros(1, RATE), torch.tensor([RATE])
    found = effects.noisy(
        silence, frames=frames, snr_db=torch.tensor([20.0]), generator=generator()
    )
    assert torch.equal(found, silence)
    assert not vocoder.stretched(silence, rate=1.1, sample_rate=RATE).any()
    room = effects.in_a_room(
        silence,
        seconds=torch.tensor([0.5]),
        db=torch.tensor([-9.0]),
        sample_rate=RATE,
        generator=generator(),
    )
    assert not room.any()


@pytest.mark.parametrize("kind", ["low_pass", "high_pass", "band", "peak"])
def test_filters_are_those_of_torchaudio(kind: str):
    functional = import_torchaudio().functional
    audio, hertz, db = noise(1, 500), 900.0, 5.0
    b, a = effects.biquads(kind, hz=hertz, db=db, sample_rate=RATE)
    as_tensor = {"numerator": torch.tensor([b]), "denominator": torch.tensor([a])}
    found = effects.filtered(audio, **as_tensor, sample_rate=RATE)

    def q(octaves: float) -> float:
        w = 2 * math.pi * hertz / RATE
        return 1 / (2 * math.sinh(math.log(2) / 2 * octaves * w / math.sin(w)))

    theirs = {
        "low_pass": lambda: functional.lowpass_biquad(audio, RATE, hertz),
        "high_pass": lambda: functional.highpass_biquad(audio, RATE, hertz),
        "band": lambda: functional.bandpass_biquad(audio, RATE, hertz, q(2.0)),
        "peak": lambda: functional.equalizer_biquad(audio, RATE, hertz, db, q(1.0)),
    }[kind]()
    torch.testing.assert_close(found, theirs, atol=2e-4, rtol=0)


def test_a_corner_above_nyquist_is_brought_below_it():
    b, a = effects.biquads("low_pass", hz=10 * RATE, db=0.0, sample_rate=RATE)
    found = effects.filtered(
        noise(1), numerator=torch.tensor([b]), denominator=torch.tensor([a]), sample_rate=RATE
    )
    assert torch.isfinite(found).all()
    assert found.abs().max() < 1.0


def test_a_room_keeps_the_direct_sound_in_place_and_falls_in_its_time():
    click = torch.zeros(2, 2 * RATE)
    click[:, 100] = 1.0
    seconds, db = torch.tensor([0.3, 0.9]), torch.tensor([-6.0, -12.0])
    found = effects.in_a_room(
        click, seconds=seconds, db=db, sample_rate=RATE, generator=generator()
    )
    assert found.shape == click.shape
    torch.testing.assert_close(found[:, 100], torch.ones(2), atol=1e-4, rtol=0)
    assert found[:, :100].abs().max() < 1e-4
    tail = found[:, 101:]
    wet = 10 * torch.log10(tail.square().sum(dim=1))
    torch.testing.assert_close(wet, db, atol=0.2, rtol=0)
    for row in (0, 1):
        half = int(seconds[row] * RATE / 2)  # in which it falls by 30 dB
        window = RATE // 20
        early, late = (tail[row, at : at + window].square().sum() for at in (0, half))
        assert 10 * math.log10(early / late) == pytest.approx(30, abs=3)


@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_stretching_changes_the_length_and_not_the_pitch(rate: float):
    audio = tones(440.0, 1000.0)
    found = vocoder.stretched(audio, rate=rate, sample_rate=RATE)
    assert found.shape == (2, round(RATE / rate))
    assert loudest_hertz(found) == pytest.approx([440, 1000], abs=3)


@pytest.mark.parametrize("semitones", [-3, -1, 1, 2, 5])
def test_shifting_changes_the_pitch_and_not_the_length(semitones: int):
    audio = tones(440.0, 1000.0)
    found = vocoder.shifted(audio, semitones=semitones, sample_rate=RATE)
    assert found.shape == audio.shape
    ratio = 2 ** (semitones / 12)
    assert loudest_hertz(found) == pytest.approx([440 * ratio, 1000 * ratio], rel=0.005)


def test_an_onset_lies_where_the_stretched_notes_say():
    """A note at 0.5 s sounds at 0.5 / rate s."""
    audio = torch.cat([torch.zeros(1, RATE // 2), tones(600.0, seconds=0.5)], dim=1)
    found = vocoder.stretched(audio, rate=0.8, sample_rate=RATE)
    loud = (found[0].abs() > 0.15).nonzero()[0]
    assert int(loud) / RATE == pytest.approx(0.5 / 0.8, abs=0.04)


def tokens(*rows: tuple[int, int, int]) -> Tensor:
    """(1, N + 1, 8) of (pitch - 21, duration, velocity), and a row of padding."""
    made = torch.zeros(1, len(rows) + 1, 8, dtype=torch.int64)
    for n, (pitch, duration, velocity) in enumerate(rows):
        made[0, n, 3:6] = torch.tensor([pitch, duration, velocity])
    return made


def test_a_tempo_changes_durations_alone():
    midi, notes = tokens((40, 50, 64), (41, 127, 64), (42, 1, 64)), torch.tensor([3])
    found = vocoder.hastened(midi, notes, rate=1.25)
    assert found[0, :, 4].tolist() == [40, 127, 1, 0]
    assert vocoder.hastened(midi, notes, rate=0.4)[0, :, 4].tolist() == [125, 127, 2, 0]
    found[:, :, 4] = midi[:, :, 4]
    assert torch.equal(found, midi)


def test_a_transposition_changes_pitches_alone_and_rows_that_would_leave_the_keyboard_stay():
    midi = torch.cat([tokens((0, 5, 9), (40, 5, 9)), tokens((3, 5, 9), (87, 5, 9))])
    notes = torch.tensor([2, 2])
    for semitones, fits, low in (
        (-1, [False, True], 2),
        (1, [True, False], 1),
        (5, [True, False], 5),
    ):
        found, stayed = vocoder.transposed(midi, notes, semitones=semitones)
        assert stayed.tolist() == fits
        moved = fits.index(True)
        assert found[moved, 0, 3] == low
        assert torch.equal(found[1 - moved], midi[1 - moved])
        assert not found[:, 2].any()
    assert vocoder.transposed(midi, torch.zeros(2), semitones=9)[1].all()


def test_a_harder_touch_stays_a_velocity():
    midi, notes = tokens((40, 5, 3), (40, 5, 126)), torch.tensor([2])
    assert vocoder.struck(midi, notes, steps=torch.tensor([4]))[0, :, 5].tolist() == [7, 127, 0]
    assert vocoder.struck(midi, notes, steps=torch.tensor([-4]))[0, :, 5].tolist() == [1, 122, 0]
