"""What opens an audio file in memory: for each format its decoders, the fastest first."""

from collections.abc import Callable
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from loader.backends import import_torchcodec
from loader.fast_decoders import COUNTED_AT_ONCE, FAST, Data, believed, copy_samples
from shards.errors import DecodeError
from shards.npy import npy_view


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


def decoders(extension: str) -> list[tuple[str, Callable[[Data], Any]]]:
    """Names and openers of the decoders of a format, the fastest first."""
    fast = FAST.get(extension)
    found = [("miniaudio", fast)] if fast is not None else []
    return [*found, ("soundfile", SoundFile), ("torchcodec", TorchCodec)]


class Npy:
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


class SoundFile:
    """libsndfile: slower, strict about damage, and the reference of the tests."""

    def __init__(self, data: Data) -> None:
        try:
            self._file = soundfile.SoundFile(BytesIO(data))
        except soundfile.LibsndfileError as error:
            raise DecodeError(str(error)) from error
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames = believed(int(self._file.frames), data)
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
        block = np.empty((COUNTED_AT_ONCE, *like.shape[1:]), like.dtype)
        while start:
            passed = len(self._file.read(min(start, len(block)), out=block[:start]))
            start -= passed if passed else start


class TorchCodec:
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
