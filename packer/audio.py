"""Recordings: what their headers say, a segment of one, and its bytes in a shard."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from shards.errors import DecodeError
from shards.pcm import PLAUSIBLE, mix_down, to_int16

# level 3: as small as the default 5, faster to write and to read
FLAC_COMPRESSION = 0.375
EXTENSIONS = {"flac": "flac", "wav": "wav", "npy": "audio.npy"}


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The header of a recording."""

    sample_rate: int
    frames: int
    bytes: int

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate


def probe_audio(path: Path) -> AudioInfo:
    """Read a recording's header.

    Raises:
        DecodeError: if the file is missing, empty, or no recording.
    """
    size = _require_file(path)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise DecodeError(f"{path}: not a readable recording: {error.error_string}") from error
    if info.frames <= 0:
        raise DecodeError(f"{path}: holds no audio")
    if info.frames > PLAUSIBLE * size:
        raise DecodeError(f"{path}: declares {info.frames} frames in {size} bytes")
    return AudioInfo(info.samplerate, info.frames, size)


def read_segment(
    path: Path, *, start_s: float, end_s: float | None, sample_rate: int
) -> NDArray[np.int16]:
    """(frames,) mono int16 of the segment ``[start_s, end_s)``, resampled to ``sample_rate``.

    Raises:
        DecodeError: if the recording ends or breaks off before the segment does.
    """
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate, total = file.samplerate, file.frames
            first = round(start_s * rate)
            last = total if end_s is None else min(round(end_s * rate), total)
            file.seek(first)
            frames = file.read(last - first, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DecodeError(f"{path}: {error}") from error
    if len(frames) < last - first:
        raise DecodeError(f"{path}: breaks off: {len(frames)} of {last - first} frames")
    mono = mix_down(frames)
    if not np.isfinite(mono).all():
        raise DecodeError(f"{path}: holds samples that are not finite numbers")
    return to_int16(mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate))


def encode(samples: NDArray[np.int16], *, sample_rate: int, codec: str) -> bytes:
    """The content of a member.

    Args:
        samples: (frames,) int16.
        codec: "flac", "wav" or "npy".
    """
    target = BytesIO()
    if codec == "npy":
        np.save(target, samples, allow_pickle=False)
    else:
        soundfile.write(target, samples, sample_rate, **pcm16_options(codec))
    return target.getvalue()


def pcm16_options(codec: str) -> dict[str, Any]:
    """How soundfile writes 16-bit "flac" or "wav"."""
    compression = {"compression_level": FLAC_COMPRESSION} if codec == "flac" else {}
    return {"format": codec.upper(), "subtype": "PCM_16", **compression}


def decode(data: bytes, extension: str) -> tuple[NDArray[np.int16], int | None]:
    """Samples of a member as packed, and their rate where the member tells it.

    Raises:
        DecodeError: if it is damaged.
    """
    try:
        if extension == "audio.npy":
            return _load_npy(data), None
        with soundfile.SoundFile(BytesIO(data)) as file:
            if file.frames > PLAUSIBLE * len(data):
                raise DecodeError(f"declares {file.frames} frames in {len(data)} bytes")
            samples, rate = file.read(dtype="int16"), file.samplerate
    except (soundfile.LibsndfileError, ValueError, EOFError) as error:
        raise DecodeError(f"audio does not decode: {error}") from error
    return samples, rate


def _load_npy(data: bytes) -> NDArray[np.int16]:
    """The samples of an audio.npy; what its header claims is read only as far as it is there."""
    file = BytesIO(data)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype != np.int16 or len(shape) != 1 or 2 * shape[0] != len(data) - file.tell():
        raise DecodeError(f"audio.npy declares {shape} {dtype}: int16 [frames] is due")
    return np.frombuffer(data, dtype=np.int16, offset=file.tell())


def _require_file(path: Path) -> int:
    """Bytes of a file, which has some."""
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError(f"{path}: no such file") from None
    if not path.is_file():
        raise DecodeError(f"{path}: not a file")
    if not size:
        raise DecodeError(f"{path}: is empty")
    return size
