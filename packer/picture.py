"""Pictures of a recording, small enough for a page: its envelope and its mel spectrogram."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

COLUMNS = 640  # of a picture, at most
MEL_BANDS = 96
LOWEST_HZ, HIGHEST_HZ = 30.0, 12_000.0
_WINDOW_S = 0.085  # long enough to tell the lowest keys of a piano apart
_SMALLEST = 16  # frames of a window
_RANGE_DB = 75.0  # what is softer than the loudest by more than this is black

Samples = NDArray[np.float32]


def envelope(samples: Samples) -> NDArray[np.int8]:
    """(columns, 2) lowest and highest value of each stretch of (frames,) samples in [-1, 1]."""
    if not len(samples):
        return np.zeros((0, 2), np.int8)
    starts = _starts(len(samples), min(COLUMNS, len(samples)))
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    scaled = np.clip(np.stack([low, high], axis=1), -1, 1) * 127
    pairs: NDArray[np.int8] = np.rint(scaled).astype(np.int8)
    return pairs


def mel_picture(samples: Samples, sample_rate: int) -> NDArray[np.uint8]:
    """(bands, columns) loudness in dB, highest band first; 255 is the loudest, 0 75 dB below.

    The columns are evenly spaced windows over (frames,) samples; of a long recording they do not
    touch each other.
    """
    size = max(_SMALLEST, 2 ** round(np.log2(_WINDOW_S * sample_rate)))
    columns = max(1, min(COLUMNS, len(samples) // (size // 8)))
    padded = np.pad(samples, (size // 2, size // 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)
    chosen = windows[_starts(len(windows), columns)] * np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(chosen, axis=1)) ** 2
    mel = power @ mel_weights(sample_rate, size).T
    loudness = 10 * np.log10(np.maximum(mel, 1e-10))
    loudest = max(float(loudness.max()), _RANGE_DB - 100)  # so that silence is black
    scaled = np.clip((loudness - loudest) / _RANGE_DB + 1, 0, 1)
    picture: NDArray[np.uint8] = np.rint(scaled.T[::-1] * 255).astype(np.uint8)
    return picture


def mel_weights(sample_rate: int, size: int) -> NDArray[np.float64]:
    """(bands, size // 2 + 1) triangles, evenly spaced in mel up to the lower of two limits."""
    edges = _hz(np.linspace(_mel(LOWEST_HZ), _mel(highest_hz(sample_rate)), MEL_BANDS + 2))
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))


def highest_hz(sample_rate: int) -> float:
    """Where the mel picture ends."""
    return min(HIGHEST_HZ, sample_rate / 2)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A greyscale PNG of (height, width) pixels."""
    height, width = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # filter 0
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _starts(length: int, columns: int) -> NDArray[np.int64]:
    """Where ``columns`` evenly spaced stretches of a length begin."""
    return np.arange(columns, dtype=np.int64) * length // columns


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 700 * (10 ** (mel / 2595) - 1)
    return found
