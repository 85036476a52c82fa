"""What a room or a recording does to sound: batches of waveforms, on any device.

Waveforms are (R, T) float32; every row has its own parameter, (R,) of the same device.
"""

import math

import torch
from torch import Tensor

from loader.backends import import_torchaudio

_MARGIN_S = 0.25  # in which a filter has rung out, before it wraps round into the start
_FAST = 4096  # transforms of multiples of it are fast everywhere


def louder(audio: Tensor, *, db: Tensor) -> Tensor:
    """Raised by so many decibels; what leaves [-1, 1] is not clipped."""
    return audio * (10 ** (db / 20))[:, None]


def noisy(audio: Tensor, *, frames: Tensor, snr_db: Tensor, generator: torch.Generator) -> Tensor:
    """With white noise so far below the power of a row's first ``frames`` (R,) samples."""
    noise = torch.empty_like(audio).normal_(generator=generator)
    add = import_torchaudio().transforms.AddNoise()
    # Of a row without samples the power is 0 / 0.
    changed: Tensor = torch.where((frames > 0)[:, None], add(audio, noise, snr_db, frames), audio)
    return changed


def in_a_room(
    audio: Tensor, *, seconds: Tensor, db: Tensor, sample_rate: int, generator: torch.Generator
) -> Tensor:
    """With a reverberation that falls by 60 dB in so many seconds.

    Args:
        audio: (R, T).
        seconds: (R,) reverberation time.
        db: (R,) energy of the reverberation beside that of the direct sound.
        sample_rate: Hz.
        generator: of the impulse responses: noise that decays, behind a direct sound of 1.

    Returns:
        (R, T): the direct sound stays where it was, and the last tail is cut off.
    """
    # A whole number of _FAST for the convolution, and at least a second of tail.
    length = _fast(audio.shape[1] + sample_rate) - audio.shape[1] + 1
    tail = torch.empty(len(audio), length, device=audio.device).normal_(generator=generator)
    time = torch.arange(length, device=audio.device) / sample_rate
    tail = tail * torch.exp(-math.log(1000.0) * time / seconds[:, None])
    wanted = 10 ** (db / 20)[:, None]
    response = tail * wanted / tail.square().sum(dim=1, keepdim=True).sqrt()
    response[:, 0] = 1.0
    convolved: Tensor = import_torchaudio().transforms.FFTConvolve()(audio, response)
    return convolved[:, : audio.shape[1]]


def filtered(audio: Tensor, *, numerator: Tensor, denominator: Tensor, sample_rate: int) -> Tensor:
    """Through a filter of second order a row, whose coefficients (R, 3) are as in ``biquads``.

    By its frequency response: the recursion itself runs sample by sample, which only torchaudio's
    extension does fast, and that not on every machine.
    """
    samples = audio.shape[1]
    length = _fast(samples + int(_MARGIN_S * sample_rate))
    turn = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1, device=audio.device) / length)
    powers = torch.stack([torch.ones_like(turn), turn, turn.square()])
    response = (numerator.to(turn.dtype) @ powers) / (denominator.to(turn.dtype) @ powers)
    found: Tensor = torch.fft.irfft(torch.fft.rfft(audio, n=length) * response, n=length)
    return found[:, :samples]


def biquads(
    kind: str, *, hz: float, db: float, sample_rate: int
) -> tuple[list[float], list[float]]:
    """Coefficients b and a of a filter (Bristow-Johnson, "Audio EQ cookbook", 1998).

    Args:
        kind: low_pass or high_pass (Butterworth), band (two octaves wide, 0 dB at its centre) or
            peak (an octave wide).
        hz: corner or centre; brought below Nyquist.
        db: of a peak.
        sample_rate: Hz.
    """
    w = 2 * math.pi * min(hz / sample_rate, 0.49)
    cos, sin = math.cos(w), math.sin(w)
    octaves = {"band": 2.0, "peak": 1.0}
    if kind in octaves:
        alpha = sin * math.sinh(math.log(2) / 2 * octaves[kind] * w / sin)
    else:
        alpha = sin / math.sqrt(2)
    a = [1 + alpha, -2 * cos, 1 - alpha]
    if kind == "low_pass":
        return [(1 - cos) / 2, 1 - cos, (1 - cos) / 2], a
    if kind == "high_pass":
        return [(1 + cos) / 2, -(1 + cos), (1 + cos) / 2], a
    if kind == "band":
        return [alpha, 0.0, -alpha], a
    assert kind == "peak", kind
    root = 10 ** (db / 40)
    return [1 + alpha * root, -2 * cos, 1 - alpha * root], [
        1 + alpha / root,
        -2 * cos,
        1 - alpha / root,
    ]


def _fast(length: int) -> int:
    return -(-length // _FAST) * _FAST
