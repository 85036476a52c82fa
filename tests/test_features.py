"""trainer.features: log-mel as the textbook has it."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.features import LogMel

pytestmark = pytest.mark.skipif(
    find_spec("torchaudio") is None, reason="torchaudio is not installed"
)

RATE, BANDS, WINDOW, HOP = 16000, 24, 1024, 320


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel(RATE, n_mels=BANDS, n_fft=WINDOW, hop_length=HOP)


def filters() -> NDArray[np.float64]:
    """(F, M) triangles, equally spaced on the mel scale of O'Shaughnessy from 30 Hz."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array([30, RATE / 2]) / 700)), BANDS + 2)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    low, centre, high = hertz[:-2], hertz[1:-1], hertz[2:]
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    rise, fall = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0, np.minimum(rise, fall))


def reference(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """(M, frames) of (T,): zeros at both ends, periodic Hann window, power, mel, log."""
    padded = np.pad(audio.astype(np.float64), WINDOW // 2)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    starts = range(0, len(audio) + 1, HOP)
    power = [np.abs(np.fft.rfft(padded[s : s + WINDOW] * hann)) ** 2 for s in starts]
    return np.log(np.maximum(np.array(power) @ filters(), 1e-5)).T


@pytest.mark.parametrize("samples", [WINDOW, 4801, 9600])
def test_log_mel_equals_the_reference(log_mel: LogMel, samples: int):
    audio = np.random.default_rng(3).uniform(-1, 1, samples).astype(np.float32)
    found = log_mel(torch.from_numpy(audio)[None])[0].numpy()
    np.testing.assert_allclose(found, reference(audio), atol=2e-3)


def test_silence_is_finite(log_mel: LogMel):
    assert torch.isfinite(log_mel(torch.zeros(2, 4800))).all()


def test_features_stay_float32_under_autocast(log_mel: LogMel):
    audio = torch.rand(1, 4800) * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = log_mel(audio)
    assert found.dtype == torch.float32
    assert torch.equal(found, log_mel(audio))


def test_frames_are_those_centred_on_a_sample(log_mel: LogMel):
    samples = torch.tensor([0, 1, HOP, HOP + 1, 10 * HOP])
    assert log_mel.frames(samples).tolist() == [0, 1, 1, 2, 10]
