"""Decodes a window of an audio file in memory straight into a row of a batch."""

import math
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from io import BytesIO
from typing import Any, Protocol

import miniaudio
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from loader.backends import import_torchcodec
from shards.errors import DecodeError
from shards.pcm import INT16_SCALE, mix_down, to_int16

_ffi, _lib = miniaudio.ffi, miniaudio.lib
Data = bytes | memoryview


class Decoder(Protocol):
    """An audio file in memory, open for reading."""

    sample_rate: int
    channels: int
    frames: int

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
) -> int:
    """Decode a window of a file to mono at ``sample_rate``.

    Args:
        data: content of the file.
        extension: flac, wav, mp3, ogg, opus, ... or npy for int16 samples at ``sample_rate``.
        row: (T,) float32 or int16; filled from the left, the rest zeroed.
        start: first frame of the window, counted at ``sample_rate``.
        at_least: seconds that the whole file must have, as its annotation says.

    Returns:
        How many frames of ``row`` are sound.

    Raises:
        DecodeError: if no decoder reads it whole; the message says what each found.
    """
    if extension.endswith("npy"):
        return _copy_npy(data, row, start)
    tried = []
    for name, opener in _decoders(extension):
        try:
            with closing(opener(data)) as decoder:
                return _decode(decoder, row, sample_rate, start, at_least)
        except DecodeError as error:
            tried.append(f"{name}: {error}")
    row[:] = 0
    raise DecodeError("; ".join(tried))


def decode_whole(
    data: Data, extension: str, *, sample_rate: int, at_least: float = 0.0
) -> NDArray[np.int16]:
    """(frames,) int16: a whole file as mono at ``sample_rate``.

    Raises:
        DecodeError: as ``decode_window`` does.
    """
    if extension.endswith("npy"):
        return npy_view(data)
    row = np.empty(math.ceil(duration_s(data, extension) * sample_rate) + 1, dtype=np.int16)
    count = decode_window(data, extension, row, sample_rate=sample_rate, at_least=at_least)
    return row[:count]


def duration_s(data: Data, extension: str) -> float:
    """Seconds of a file by its header.

    Raises:
        DecodeError: if no decoder opens it.
    """
    tried = []
    for name, opener in _decoders(extension):
        try:
            with closing(opener(data)) as decoder:
                return float(decoder.frames / decoder.sample_rate)
        except DecodeError as error:
            tried.append(f"{name}: {error}")
    raise DecodeError("; ".join(tried))


def _decode(
    decoder: Decoder, row: NDArray[Any], sample_rate: int, start: int, at_least: float
) -> int:
    """Read, and where needed mix and resample, a window."""
    rate = decoder.sample_rate
    # resamplers round the number of frames, by less than one
    if decoder.frames < at_least * rate - 1:
        raise DecodeError(f"holds {decoder.frames} frames, {at_least * rate:.0f} are annotated")
    first = round(start * rate / sample_rate)
    wanted = len(row) if rate == sample_rate else -(-len(row) * rate // sample_rate)
    count = max(0, min(wanted, decoder.frames - first))
    if decoder.channels == 1 and rate == sample_rate:
        _read_whole(decoder, first, row[:count])
    else:
        raw = np.empty((count, decoder.channels), dtype=np.float32)
        _read_whole(decoder, first, raw)
        mono = mix_down(raw)
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate)
        count = min(len(mono), len(row))
        row[:count] = mono[:count] if row.dtype == np.float32 else to_int16(mono[:count])
    row[count:] = 0
    return count


def _read_whole(decoder: Decoder, first: int, out: NDArray[Any]) -> None:
    """Read as many frames as ``out`` has; the fast decoders shorten damaged audio silently."""
    got = decoder.read(first, out)
    if got < len(out):
        raise DecodeError(f"decodes to {got} frames where its header declares {len(out)}")


class _Flac:
    def __init__(self, data: Data) -> None:
        self._data = _ffi.from_buffer(data)
        self._flac = _lib.ma_dr_flac_open_memory(self._data, len(data), _ffi.NULL)
        if self._flac == _ffi.NULL:
            raise DecodeError("not a FLAC file")
        self.sample_rate = int(self._flac.sampleRate)
        self.channels = int(self._flac.channels)
        self.frames = int(self._flac.totalPCMFrameCount)

    def read(self, start: int, out: NDArray[Any]) -> int:
        if start and not _lib.ma_dr_flac_seek_to_pcm_frame(self._flac, start):
            raise DecodeError(f"cannot seek to frame {start}")
        if out.dtype == np.int16:
            buffer = _ffi.from_buffer("short[]", out, require_writable=True)
            return int(_lib.ma_dr_flac_read_pcm_frames_s16(self._flac, len(out), buffer))
        buffer = _ffi.from_buffer("float[]", out, require_writable=True)
        return int(_lib.ma_dr_flac_read_pcm_frames_f32(self._flac, len(out), buffer))

    def close(self) -> None:
        _lib.ma_dr_flac_close(self._flac)


class _Wav:
    def __init__(self, data: Data) -> None:
        self._data = _ffi.from_buffer(data)
        self._wav = _ffi.new("ma_dr_wav *")
        if not _lib.ma_dr_wav_init_memory(self._wav, self._data, len(data), _ffi.NULL):
            raise DecodeError("not a WAV file")
        self.sample_rate = int(self._wav.sampleRate)
        self.channels = int(self._wav.channels)
        self.frames = int(self._wav.totalPCMFrameCount)

    def read(self, start: int, out: NDArray[Any]) -> int:
        if start and not _lib.ma_dr_wav_seek_to_pcm_frame(self._wav, start):
            raise DecodeError(f"cannot seek to frame {start}")
        if out.dtype == np.int16:
            buffer = _ffi.from_buffer("short[]", out, require_writable=True)
            return int(_lib.ma_dr_wav_read_pcm_frames_s16(self._wav, len(out), buffer))
        buffer = _ffi.from_buffer("float[]", out, require_writable=True)
        return int(_lib.ma_dr_wav_read_pcm_frames_f32(self._wav, len(out), buffer))

    def close(self) -> None:
        _lib.ma_dr_wav_uninit(self._wav)


class _Mp3:
    def __init__(self, data: Data) -> None:
        self._data = _ffi.from_buffer(data)
        self._mp3 = _ffi.new("ma_dr_mp3 *")
        if not _lib.ma_dr_mp3_init_memory(self._mp3, self._data, len(data), _ffi.NULL):
            raise DecodeError("not an MP3 file")
        self.sample_rate = int(self._mp3.sampleRate)
        self.channels = int(self._mp3.channels)
        self.frames = int(_lib.ma_dr_mp3_get_pcm_frame_count(self._mp3))

    def read(self, start: int, out: NDArray[Any]) -> int:
        if start and not _lib.ma_dr_mp3_seek_to_pcm_frame(self._mp3, start):
            raise DecodeError(f"cannot seek to frame {start}")
        if out.dtype == np.int16:
            buffer = _ffi.from_buffer("short[]", out, require_writable=True)
            return int(_lib.ma_dr_mp3_read_pcm_frames_s16(self._mp3, len(out), buffer))
        buffer = _ffi.from_buffer("float[]", out, require_writable=True)
        return int(_lib.ma_dr_mp3_read_pcm_frames_f32(self._mp3, len(out), buffer))

    def close(self) -> None:
        _lib.ma_dr_mp3_uninit(self._mp3)


class _SoundFile:
    """libsndfile: slower, strict about damage, and the reference of the tests."""

    def __init__(self, data: Data) -> None:
        try:
            self._file = soundfile.SoundFile(BytesIO(data))
        except soundfile.LibsndfileError as error:
            raise DecodeError(str(error)) from error
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames = int(self._file.frames)

    def read(self, start: int, out: NDArray[Any]) -> int:
        try:
            self._file.seek(start)
            return len(self._file.read(len(out), out=out))
        except soundfile.LibsndfileError as error:
            raise DecodeError(str(error)) from error

    def close(self) -> None:
        self._file.close()


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
        self._frames = samples.data.numpy().T
        self.sample_rate = int(samples.sample_rate)
        self.frames, self.channels = self._frames.shape

    def read(self, start: int, out: NDArray[Any]) -> int:
        frames = self._frames[start : start + len(out)].reshape(-1, *out.shape[1:])
        out[: len(frames)] = frames if out.dtype == np.float32 else to_int16(frames)
        return len(frames)

    def close(self) -> None: ...


_FAST: dict[str, Callable[[Data], Any]] = {"flac": _Flac, "wav": _Wav, "mp3": _Mp3}


def _decoders(extension: str) -> list[tuple[str, Callable[[Data], Any]]]:
    """Decoders of a format, the fastest first."""
    fast = _FAST.get(extension)
    found = [("miniaudio", fast)] if fast is not None else []
    return [*found, ("soundfile", _SoundFile), ("torchcodec", _TorchCodec)]


def _copy_npy(data: Data, row: NDArray[Any], start: int) -> int:
    samples = npy_view(data)
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise DecodeError(f"audio.npy holds {samples.dtype} {samples.shape}; int16 [frames] is due")
    window = samples[start : start + len(row)]
    count = len(window)
    if row.dtype == np.float32:
        np.multiply(window, np.float32(1 / INT16_SCALE), out=row[:count], dtype=np.float32)
    else:
        row[:count] = window
    row[count:] = 0
    return count


def npy_view(data: Data) -> NDArray[Any]:
    """The array of a ``.npy`` file, over its own bytes.

    Raises:
        DecodeError: if it is damaged, or holds Python objects.
    """
    if len(data) < 10 or bytes(data[:6]) != b"\x93NUMPY":
        raise DecodeError("not an npy file")
    wide = data[6] > 1
    length = int.from_bytes(data[8 : 12 if wide else 10], "little")
    begin = (12 if wide else 10) + length
    dtype, fortran, shape = _npy_header(bytes(data[:begin]))
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) - begin < count * dtype.itemsize:
        raise DecodeError(f"truncated: {len(data) - begin} bytes where {shape} {dtype} is declared")
    array = np.frombuffer(data, dtype=dtype, count=count, offset=begin)
    return array.reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=256)
def _npy_header(header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    file = BytesIO(header)
    try:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = reader(file)
    except (ValueError, KeyError) as error:
        raise DecodeError(f"damaged npy header: {error}") from error
    if dtype.hasobject:
        raise DecodeError("npy of Python objects: refused")
    return dtype, fortran, shape
