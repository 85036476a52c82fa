"""Decodes a window of an audio file in memory straight into a row of a batch."""

import math
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray

from loader.decoders import Decoder, Npy, decoders
from loader.fast_decoders import COUNTED_AT_ONCE, Data
from shards.chunks import require_whole
from shards.errors import DecodeError
from shards.pcm import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MOST_CHANNELS,
    USUAL,
    mix_down,
    to_int16,
)

Result = TypeVar("Result")

_CONTEXT = 128  # frames at the lower of two rates: soxr's filter reaches 104 of them to each side


def decode_window(
    data: Data,
    extension: str,
    row: NDArray[Any],
    *,
    sample_rate: int,
    start: int = 0,
    at_least: float = 0.0,
    stored_rate: int | None = None,
) -> int:
    """Decode a window of a file to mono at ``sample_rate``.

    Args:
        data: content of the file.
        extension: flac, wav, mp3, ogg, opus, ... or audio.npy for int16 samples.
        row: (T,) float32 or int16; filled from the left, the rest zeroed.
        start: first frame of the window, counted at ``sample_rate``.
        at_least: seconds that the whole file must have, as its annotation says.
        stored_rate: Hz of npy samples, which do not tell it; None is ``sample_rate``.

    Returns:
        How many frames of ``row`` are sound.

    Raises:
        DecodeError: if no decoder reads it whole; the message says what each found.
    """

    def decode(decoder: Decoder) -> int:
        require_length(decoder.frames, decoder.sample_rate, at_least, stored_rate=stored_rate)
        return _decode(decoder, row, sample_rate, start)

    return _try_each(data, extension, decode, stored_rate or sample_rate)


def decode_whole(
    data: Data,
    extension: str,
    *,
    sample_rate: int,
    at_least: float = 0.0,
    stored_rate: int | None = None,
) -> NDArray[np.int16]:
    """(frames,) int16: a whole file as mono at ``sample_rate``; arguments as ``decode_window``'s.

    Raises:
        DecodeError: if no decoder reads it whole.
    """

    def decode(decoder: Decoder) -> NDArray[np.int16]:
        require_length(decoder.frames, decoder.sample_rate, at_least, stored_rate=stored_rate)
        frames = _honest_frames(decoder, len(data))
        row = np.empty(math.ceil(frames * sample_rate / decoder.sample_rate) + 1, np.int16)
        return row[: _decode(decoder, row, sample_rate, 0)]

    return _try_each(data, extension, decode, stored_rate or sample_rate)


def duration_s(data: Data, extension: str, *, stored_rate: int) -> float:
    """Seconds of a file: by its header, or as it decodes where that claims a lot.

    Raises:
        DecodeError: if no decoder opens it.
    """

    def measure(decoder: Decoder) -> float:
        return _honest_frames(decoder, len(data)) / decoder.sample_rate

    return _try_each(data, extension, measure, stored_rate)


def _try_each(
    data: Data, extension: str, action: Callable[[Decoder], Result], stored_rate: int
) -> Result:
    """What the first decoder that succeeds makes of a file.

    Raises:
        DecodeError: if it is cut off, or none does; the message says what each found.
    """
    if extension.endswith("npy"):
        samples = Npy(data, stored_rate)
        _require_possible(samples)
        return action(samples)
    require_whole(data)
    tried = []
    for name, opener in decoders(extension):
        try:
            with closing(opener(data)) as decoder:
                _require_possible(decoder)
                return action(decoder)
        except DecodeError as error:
            tried.append(f"{name}: {error}")
    raise DecodeError("; ".join(tried))


def _decode(decoder: Decoder, row: NDArray[Any], sample_rate: int, start: int) -> int:
    """Read, and where needed mix, resample and clip, a window."""
    rate = decoder.sample_rate
    first, stop, lead = _to_read(start, len(row), rate=rate, sample_rate=sample_rate)
    count = max(0, min(stop, decoder.frames) - first)
    if decoder.channels == 1 and rate == sample_rate and decoder.int16:
        _read_whole(decoder, first, row[:count])
    else:
        raw = np.empty((count, decoder.channels), dtype=np.float32)
        _read_whole(decoder, first, raw)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is no number
            mono = mix_down(raw)
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate)
            mono = mono[lead : lead + len(row)]
        if not decoder.int16 and not np.isfinite(mono).all():
            raise DecodeError("holds samples that are no finite numbers")
        count = min(len(mono), len(row))
        if row.dtype == np.float32:
            np.clip(mono[:count], -1.0, 1.0, out=row[:count])
        else:
            row[:count] = to_int16(mono[:count])
    row[count:] = 0
    return count


def _to_read(start: int, length: int, *, rate: int, sample_rate: int) -> tuple[int, int, int]:
    """What to read of a file at ``rate`` to have a window at ``sample_rate``.

    At another rate a window is read with what lies around it, from a frame that falls on one of
    ``sample_rate``: so it is what the whole file, resampled, has there.

    Args:
        start, length: of the window, in frames at ``sample_rate``.

    Returns:
        First frame and the one behind the last, and how many resampled frames lie before the
        window.
    """
    if rate == sample_rate:
        return start, start + length, 0
    common = math.gcd(rate, sample_rate)
    context = -(-_CONTEXT * max(rate, sample_rate) // sample_rate)
    steps = max(0, start * rate // sample_rate - context) // (rate // common)
    stop = -(-(start + length) * rate // sample_rate) + context
    return steps * (rate // common), stop, start - steps * (sample_rate // common)


def require_length(
    frames: int, sample_rate: int, at_least: float, *, stored_rate: int | None = None
) -> None:
    """Refuse audio that is shorter than ``at_least`` seconds, within one frame.

    Args:
        stored_rate: Hz that the annotation tells. Audio of just as many frames as that makes,
            at another rate, is refused too: one of the two is damaged.

    Raises:
        DecodeError: with both lengths.
    """
    # resamplers round the number of frames, by less than one
    if frames < at_least * sample_rate - 1:
        raise DecodeError(f"holds {frames} frames, {at_least * sample_rate:.0f} are annotated")
    told = 0 if stored_rate is None else round(at_least * stored_rate)
    if told and frames == told and sample_rate != stored_rate:
        raise DecodeError(f"declares {sample_rate} Hz, {stored_rate} are annotated")


def _require_possible(decoder: Decoder) -> None:
    """Refuse what only a damaged header claims; it would take any amount of memory, or be silence.

    Raises:
        DecodeError: with what is claimed.
    """
    if not decoder.frames:
        raise DecodeError("holds no audio")
    if not 1 <= decoder.channels <= MOST_CHANNELS:
        raise DecodeError(f"declares {decoder.channels} channels; up to {MOST_CHANNELS} are read")
    if not LOWEST_RATE <= decoder.sample_rate <= HIGHEST_RATE:
        raise DecodeError(
            f"declares {decoder.sample_rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} are read"
        )


def _honest_frames(decoder: Decoder, size: int) -> int:
    """Frames of a file of ``size`` bytes: as declared, or counted where that is unusually many."""
    if decoder.frames <= USUAL * size:
        return decoder.frames
    block, frames = np.empty((COUNTED_AT_ONCE, decoder.channels), np.float32), 0
    while got := decoder.read(frames, block[: decoder.frames - frames]):
        frames += got
    if frames < decoder.frames:
        raise DecodeError(f"decodes to {frames} frames where its header declares {decoder.frames}")
    return frames


def _read_whole(decoder: Decoder, first: int, out: NDArray[Any]) -> None:
    """Read as many frames as ``out`` has; the fast decoders shorten damaged audio silently."""
    got = decoder.read(first, out)
    if got < len(out):
        raise DecodeError(f"decodes to {got} frames where its header declares {len(out)}")
