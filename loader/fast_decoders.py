"""miniaudio's decoders of FLAC, WAV and MP3: on memory, into memory, without Python's lock."""

from collections.abc import Callable
from typing import Any

import miniaudio
import numpy as np
from numpy.typing import NDArray

from shards.errors import DecodeError
from shards.pcm import PLAUSIBLE

Data = bytes | memoryview
COUNTED_AT_ONCE = 65536  # frames

_ffi, _lib = miniaudio.ffi, miniaudio.lib


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


def believed(frames: int, data: Data) -> int:
    """A header's count of frames, unless the file is too small to hold them."""
    if frames > PLAUSIBLE * len(data):
        raise DecodeError(f"declares {frames} frames in {len(data)} bytes")
    return frames


class _Fast:
    """One of miniaudio's decoders: on memory, into memory, without Python's lock."""

    frames: int
    # released on closing: where an error holds itself through its frames, Python's garbage
    # collector would clear a memoryview that is still lent, and crash
    _data: Any

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


class Flac(_Fast):
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
        _ffi.release(self._data)

    def _count(self) -> int:
        """Frames that are really there."""
        block, frames = np.empty((COUNTED_AT_ONCE, max(1, self.channels)), np.float32), 0
        while got := self.read(frames, block):
            frames += got
        return frames


class Wav(_Fast):
    def __init__(self, data: Data) -> None:
        self._data = _ffi.from_buffer(data)
        wav = _ffi.new("ma_dr_wav *")
        if not _lib.ma_dr_wav_init_memory(wav, self._data, len(data), _ffi.NULL):
            raise DecodeError("not a WAV file")
        pcm = wav.translatedFormatTag == _lib.MA_DR_WAVE_FORMAT_PCM and wav.bitsPerSample <= 16
        super().__init__(wav, "wav", int16=bool(pcm))
        self.frames = believed(int(wav.totalPCMFrameCount), data)

    def close(self) -> None:
        _lib.ma_dr_wav_uninit(self._handle)
        _ffi.release(self._data)


class Mp3(_Fast):
    def __init__(self, data: Data) -> None:
        self._data = _ffi.from_buffer(data)
        mp3 = _ffi.new("ma_dr_mp3 *")
        if not _lib.ma_dr_mp3_init_memory(mp3, self._data, len(data), _ffi.NULL):
            raise DecodeError("not an MP3 file")
        super().__init__(mp3, "mp3", int16=False)
        self.frames = int(_lib.ma_dr_mp3_get_pcm_frame_count(mp3))

    def close(self) -> None:
        _lib.ma_dr_mp3_uninit(self._handle)
        _ffi.release(self._data)


FAST: dict[str, Callable[[Data], Any]] = {"flac": Flac, "wav": Wav, "mp3": Mp3}
