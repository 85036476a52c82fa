"""Decodes a window of an audio file in memory straight into a row of a batch."""

import math
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from typing import Any, Protocol, TypeVar

import miniaudio
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from loader.backends import import_torchcodec
from shards.errors import DecodeError
from shards.npy import npy_view
from shards.pcm import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MOST_CHANNELS,
    PLAUSIBLE,
    USUAL,
    mix_down,
    to_int16,
)

_ffi, _lib = miniaudio.ffi, miniaudio.lib
_COUNTED_AT_ONCE = 65536
_RIFF_BYTES, _CHUNK_HEAD_BYTES = 12, 8
_STREAMED_BYTES = 0x7FFF0000  # from here on a WAV's size is a word for not knowing it

Data = bytes | memoryview
Result = TypeVar("Result")


class _CutOffError(DecodeError):
    """A file ends before its header says; another decoder would take what is there for all."""


class Decoder(Protocol):
    """An audio file in memory, open for reading.

    Attributes:
        int16: the file holds 16-bit samples (or fewer), which int16 reads give as they are.
    """

    sample_rate: int
    channels: int
    frames: int
    int16: bool

    def read(self, start: int, out: NDArray[Any]) -> int:
        """Fill ``out``, (n, channels) float32 or int16, from frame ``start``; frames written."""

    def close(self) -> None: ...


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


def copy_samples(samples: NDArray[np.int16], out: NDArray[Any]) -> int:
    """Fill ``out``, (T,) float32 or int16, with as many (n,) samples as there are; how many."""
    count = min(len(samples), len(out))
    if out.dtype == np.int16:
        np.copyto(out[:count], samples[:count])
    else:  # in one pass over memory; numpy's cast and multiplication are two
        target = _ffi.from_buffer(out, require_writable=True)
        source, plain = _ffi.from_buffer(samples), _lib.ma_dither_mode_none
        _lib.ma_pcm_convert(target, _lib.ma_format_f32, source, _lib.ma_format_s16, count, plain)
    return count


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
        DecodeError: if none does; the message says what each found.
    """
    if extension.endswith("npy"):
        samples = _Npy(data, stored_rate)
        _require_possible(samples)
        return action(samples)
    tried = []
    for name, opener in _decoders(extension):
        try:
            with closing(opener(data)) as decoder:
                _require_possible(decoder)
                return action(decoder)
        except DecodeError as error:
            tried.append(f"{name}: {error}")
            if isinstance(error, _CutOffError):
                break
    raise DecodeError("; ".join(tried))


def _decode(decoder: Decoder, row: NDArray[Any], sample_rate: int, start: int) -> int:
    """Read, and where needed mix, resample and clip, a window."""
    rate = decoder.sample_rate
    first = round(start * rate / sample_rate)
    wanted = len(row) if rate == sample_rate else -(-len(row) * rate // sample_rate)
    count = max(0, min(wanted, decoder.frames - first))
    if decoder.channels == 1 and rate == sample_rate and decoder.int16:
        _read_whole(decoder, first, row[:count])
    else:
        raw = np.empty((count, decoder.channels), dtype=np.float32)
        _read_whole(decoder, first, raw)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is no number
            mono = mix_down(raw)
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate)
        if not decoder.int16 and not np.isfinite(mono).all():
            raise DecodeError("holds samples that are no finite numbers")
        count = min(len(mono), len(row))
        if row.dtype == np.float32:
            np.clip(mono[:count], -1.0, 1.0, out=row[:count])
        else:
            row[:count] = to_int16(mono[:count])
    row[count:] = 0
    return count


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
    block, frames = np.empty((_COUNTED_AT_ONCE, decoder.channels), np.float32), 0
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


class _Fast:
    """One of miniaudio's decoders: on memory, into memory, without Python's lock."""

    frames: int

    def __init__(self, handle: Any, name: str, *, int16: bool) -> None:
        self._handle, self.int16, self._at = handle, int16, 0
        self._seek = getattr(_lib, f"ma_dr_{name}_seek_to_pcm_frame")
        self._read_int16 = getattr(_lib, f"ma_dr_{name}_read_pcm_frames_s16")
        self._read_float32 = getattr(_lib, f"ma_dr_{name}_read_pcm_frames_f32")
        self.sample_rate, self.channels = int(handle.sampleRate), int(handle.channels)

    def read(self, start: int, out: NDArray[Any]) -> int:
        if start != self._at and not self._go_to(start):
            raise DecodeError(f"cannot seek to frame {start}")
        if out.dtype == np.int16:
            buffer = _ffi.from_buffer("short[]", out, require_writable=True)
            got = int(self._read_int16(self._handle, len(out), buffer))
        else:
            buffer = _ffi.from_buffer("float[]", out, require_writable=True)
            got = int(self._read_float32(self._handle, len(out), buffer))
        self._at = start + got
        return got

    def _go_to(self, start: int) -> bool:
        """Seek from the beginning: the MP3 decoder misses places ahead of any other."""
        return bool(
            (not self._at or self._seek(self._handle, 0)) and self._seek(self._handle, start)
        )


class _Flac(_Fast):
    def __init__(self, data: Data) -> None:
        self._data = _ffi.from_buffer(data)
        flac = _lib.ma_dr_flac_open_memory(self._data, len(data), _ffi.NULL)
        if flac == _ffi.NULL:
            raise DecodeError("not a FLAC file")
        super().__init__(flac, "flac", int16=flac.bitsPerSample <= 16)
        self.frames = int(flac.totalPCMFrameCount)
        # encoders of streams do not know the length; a damaged header claims anything
        if not self.frames or self.frames > PLAUSIBLE * len(data):
            self.frames = self._count()

    def close(self) -> None:
        _lib.ma_dr_flac_close(self._handle)

    def _count(self) -> int:
        """Frames that are really there."""
        block, frames = np.empty((_COUNTED_AT_ONCE, max(1, self.channels)), np.float32), 0
        while got := self.read(frames, block):
            frames += got
        return frames


class _Wav(_Fast):
    def __init__(self, data: Data) -> None:
        _require_whole_wav(data)
        self._data = _ffi.from_buffer(data)
        wav = _ffi.new("ma_dr_wav *")
        if not _lib.ma_dr_wav_init_memory(wav, self._data, len(data), _ffi.NULL):
            raise DecodeError("not a WAV file")
        pcm = wav.translatedFormatTag == _lib.MA_DR_WAVE_FORMAT_PCM and wav.bitsPerSample <= 16
        super().__init__(wav, "wav", int16=bool(pcm))
        self.frames = _believed(int(wav.totalPCMFrameCount), data)

    def close(self) -> None:
        _lib.ma_dr_wav_uninit(self._handle)


class _Mp3(_Fast):
    def __init__(self, data: Data) -> None:
        self._data = _ffi.from_buffer(data)
        mp3 = _ffi.new("ma_dr_mp3 *")
        if not _lib.ma_dr_mp3_init_memory(mp3, self._data, len(data), _ffi.NULL):
            raise DecodeError("not an MP3 file")
        super().__init__(mp3, "mp3", int16=False)
        self.frames = int(_lib.ma_dr_mp3_get_pcm_frame_count(mp3))

    def close(self) -> None:
        _lib.ma_dr_mp3_uninit(self._handle)


class _Npy:
    """int16 samples as they are; what a decoded shard holds."""

    channels, int16 = 1, True

    def __init__(self, data: Data, sample_rate: int) -> None:
        self._samples = npy_view(data)
        if self._samples.dtype != np.int16 or self._samples.ndim != 1:
            found = f"{self._samples.dtype} {self._samples.shape}"
            raise DecodeError(f"audio.npy holds {found}; int16 [frames] is due")
        self.sample_rate, self.frames = sample_rate, len(self._samples)

    def read(self, start: int, out: NDArray[Any]) -> int:
        return copy_samples(self._samples[start:], out.reshape(len(out)))

    def close(self) -> None: ...


class _SoundFile:
    """libsndfile: slower, strict about damage, and the reference of the tests."""

    def __init__(self, data: Data) -> None:
        try:
            self._file = soundfile.SoundFile(BytesIO(data))
        except soundfile.LibsndfileError as error:
            raise DecodeError(str(error)) from error
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames = _believed(int(self._file.frames), data)
        # libsndfile would cast what is no 16-bit sample, loud ones to their opposite
        self.int16 = self._file.subtype in ("PCM_16", "PCM_S8", "PCM_U8")

    def read(self, start: int, out: NDArray[Any]) -> int:
        try:
            self._go_to(start, out)
            return len(self._file.read(len(out), out=out))
        except soundfile.LibsndfileError as error:
            raise DecodeError(str(error)) from error

    def close(self) -> None:
        self._file.close()

    def _go_to(self, start: int, like: NDArray[Any]) -> None:
        """Seek; in Vorbis by decoding, since libsndfile misses some places there."""
        if start == self._file.tell():
            return
        if self._file.subtype != "VORBIS":
            self._file.seek(start)
            return
        self._file.seek(0)
        block = np.empty((_COUNTED_AT_ONCE, *like.shape[1:]), like.dtype)
        while start:
            passed = len(self._file.read(min(start, len(block)), out=block[:start]))
            start -= passed if passed else start


class _TorchCodec:
    """FFmpeg through torchcodec, where it is installed: for what the others cannot read."""

    def __init__(self, data: Data) -> None:
        try:
            decoder = import_torchcodec().AudioDecoder(bytes(data))
            samples = decoder.get_all_samples()
        except ImportError:
            raise DecodeError("not installed") from None
        except (RuntimeError, ValueError) as error:
            raise DecodeError(str(error).splitlines()[0]) from error
        self._frames, self.int16 = samples.data.numpy().T, False
        self.sample_rate = int(samples.sample_rate)
        self.frames, self.channels = self._frames.shape

    def read(self, start: int, out: NDArray[Any]) -> int:
        frames = self._frames[start : start + len(out)].reshape(-1, *out.shape[1:])
        out[: len(frames)] = frames
        return len(frames)

    def close(self) -> None: ...


_FAST: dict[str, Callable[[Data], Any]] = {"flac": _Flac, "wav": _Wav, "mp3": _Mp3}


def _decoders(extension: str) -> list[tuple[str, Callable[[Data], Any]]]:
    """Decoders of a format, the fastest first."""
    fast = _FAST.get(extension)
    found = [("miniaudio", fast)] if fast is not None else []
    return [*found, ("soundfile", _SoundFile), ("torchcodec", _TorchCodec)]


def _require_whole_wav(data: Data) -> None:
    """Refuse a WAV that ends within its samples; decoders take what is there for all of it.

    Raises:
        DecodeError: with what is declared.
    """
    start = _RIFF_BYTES if bytes(data[:4]) == b"RIFF" else len(data)
    while start + _CHUNK_HEAD_BYTES <= len(data):
        name = bytes(data[start : start + 4])
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        stop = start + _CHUNK_HEAD_BYTES + size
        if name == b"data" and len(data) < stop and size < _STREAMED_BYTES:
            raise _CutOffError(f"holds {len(data)} bytes where its header declares {stop}")
        start = stop + size % 2


def _believed(frames: int, data: Data) -> int:
    """A header's count of frames, unless the file is too small to hold them."""
    if frames > PLAUSIBLE * len(data):
        raise DecodeError(f"declares {frames} frames in {len(data)} bytes")
    return frames
