"""16-bit audio: what float samples become in a shard, and how channels become one."""

import numpy as np
from numpy.typing import NDArray

INT16_SCALE = 32768.0
_LOUDEST = np.float32(32767 / INT16_SCALE)
PLAUSIBLE = 1024  # frames a byte of a file can hold; FLAC of digital silence has some 350
USUAL = 64  # frames a byte of a file holds, unless it is nearly silent
MOST_CHANNELS = 64
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """float32 in [-1, 1) as int16: rounded and clipped, never dithered or normalised."""
    within = np.clip(samples, np.float32(-1), _LOUDEST)  # first: what is huge would overflow
    within *= np.float32(INT16_SCALE)
    np.rint(within, out=within)
    return within.astype(np.int16)


def mix_down(
    frames: NDArray[np.float32], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(n, channels) to (n,) mono, the mean of the channels; of several, in ``out`` if given."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    total = np.add(frames[:, 0], frames[:, 1], out=out)  # many times as fast as mean(axis=1)
    for channel in range(2, frames.shape[1]):
        total += frames[:, channel]
    total *= np.float32(1 / frames.shape[1])
    return total
