"""Audio files: what their headers say, and how the member of a sample is written and read back."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from packer.ogg import set_serial
from shards.errors import DecodeError
from shards.npy import typed_npy_view
from shards.pcm import PLAUSIBLE

Samples = NDArray[np.int16]  # (frames, channels)

# level 3: as small as the default 5, faster to write and to read
FLAC_COMPRESSION = 0.375
COPY = "copy"
COPIED = ("flac", "wav", "mp3", "ogg", "opus")  # what may go along as it is
NPY = "audio.npy"
_BLOCK = 1 << 16  # frames given to an encoder at a time: Vorbis goes by how it is fed


@dataclass(frozen=True, slots=True)
class Codec:
    """What an audio member may be.

    Attributes:
        extension: of the member.
        written: how soundfile writes it; empty where it does not.
        rates: the only sample rates it has, in Hz, if there are but a few.
        lowest, highest: bounds of the sample rate, in Hz.
        channels: the most it may have.
    """

    extension: str
    written: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[int, ...] = ()
    lowest: int = 1
    highest: int = 655_350  # what FLAC's header can say
    channels: int = 2


def pcm16_options(codec: str) -> dict[str, Any]:
    """How soundfile writes 16-bit "flac" or "wav"."""
    compression = {"compression_level": FLAC_COMPRESSION} if codec == "flac" else {}
    return {"format": codec.upper(), "subtype": "PCM_16", **compression}


_MPEG_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
CODECS = {
    "flac": Codec("flac", pcm16_options("flac")),
    "wav": Codec("wav", pcm16_options("wav")),
    # beyond these rates libvorbis 1.3 takes the process down with it
    "ogg": Codec("ogg", {"format": "OGG", "subtype": "VORBIS"}, lowest=8000, highest=192_000),
    "opus": Codec("opus", {"format": "OGG", "subtype": "OPUS"}, (48000, 24000, 16000, 12000, 8000)),
    "mp3": Codec("mp3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}, _MPEG_RATES),
    "npy": Codec(NPY, channels=1),
}


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The header of a recording."""

    sample_rate: int
    frames: int
    bytes: int

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # it has no types
    """An audio file that is read on from where the last read ended.

    soundfile seeks there after each read. A decoder of MP3 loses by that what it keeps of the
    frames before: it clicks.
    """

    def seekable(self) -> bool:
        return False


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


def write_audio(
    file: IO[bytes],
    blocks: Iterable[Samples],
    *,
    codec: str,
    sample_rate: int,
    channels: int = 1,
    serial: int = 0,
) -> int:
    """Write a member, which decodes to as many frames as it was given; how many.

    Args:
        file: empty, open for reading and writing.
        blocks: (frames, channels) int16; how long they are makes no difference.
        codec: of ``CODECS``.
        serial: of the stream, where the codec has one; 32 bits.
    """
    frames, written = 0, CODECS[codec].written
    if not written:
        return _write_npy(file, blocks)
    with soundfile.SoundFile(file, "w", sample_rate, channels, **written) as encoder:
        for block in _equal(blocks):
            encoder.write(block)
            frames += len(block)
    if written["format"] == "OGG":
        set_serial(file, serial)
    return frames


def measure(data: bytes, extension: str) -> tuple[int, int | None]:
    """Frames that a member decodes to, and its rate where the member tells it.

    Raises:
        DecodeError: if it is damaged.
    """
    try:
        if extension == NPY:
            return len(typed_npy_view(data, dtype=np.int16)), None
        with SequentialFile(BytesIO(data)) as file:
            if file.frames > PLAUSIBLE * len(data):
                raise DecodeError(f"declares {file.frames} frames in {len(data)} bytes")
            memory = np.empty((min(_BLOCK, file.frames), file.channels), dtype=np.float32)
            frames = 0
            while got := len(file.read(out=memory)):
                frames += got
            if frames < file.frames:
                raise DecodeError(f"decodes to {frames} frames, its header says {file.frames}")
            return frames, int(file.samplerate)
    except (soundfile.LibsndfileError, ValueError) as error:
        raise DecodeError(f"audio does not decode: {error}") from error


def _equal(blocks: Iterable[Samples]) -> Iterator[Samples]:
    """The same frames in blocks of ``_BLOCK``, but for the last."""
    parts: list[Samples] = []
    held = 0
    for block in blocks:
        parts.append(block)
        held += len(block)
        if held >= _BLOCK:
            joined = np.concatenate(parts)
            whole = held - held % _BLOCK
            for start in range(0, whole, _BLOCK):
                yield joined[start : start + _BLOCK]
            parts, held = [joined[whole:]], held - whole
    if held:
        yield np.concatenate(parts)


def _write_npy(file: IO[bytes], blocks: Iterable[Samples]) -> int:
    """Write mono samples as an array of one dimension, its header last; how many."""
    _write_header(file, 0)
    frames, begin = 0, file.tell()
    for block in blocks:
        file.write(block.tobytes())
        frames += len(block)
    file.seek(0)
    _write_header(file, frames)
    assert file.tell() == begin, "numpy leaves room for a longer number"
    return frames


def _write_header(file: IO[bytes], frames: int) -> None:
    header = {"descr": "<i2", "fortran_order": False, "shape": (frames,)}
    np.lib.format.write_array_header_1_0(file, header)


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
