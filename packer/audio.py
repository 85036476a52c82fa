"""Audio files: what their headers say, and how the member of a sample is written and read back."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO, FileIO
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from packer.interrupt import held_back
from packer.ogg import set_serial
from packer.patience import PatientFile, patiently
from shards.chunks import require_whole, require_whole_file
from shards.errors import DecodeError, FetchError
from shards.npy import typed_npy_view
from shards.pcm import LOWEST_RATE, PLAUSIBLE

Samples = NDArray[np.int16]  # (frames, channels)
Number = TypeVar("Number", np.int16, np.float32)

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
    lowest: int = LOWEST_RATE  # below which no loader reads it
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


class GuardedFile:
    """A file for libsndfile to read or write, which loses what is raised while it does."""

    def __init__(self, file: IO[bytes] | FileIO) -> None:
        self._file: Any = file
        self._error: BaseException | None = None

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise what was lost within, instead of what libsndfile made of it."""
        try:
            yield
        finally:
            if self._error is not None:
                raise self._error

    def readinto(self, buffer: object) -> int:
        return self._keeping("readinto", buffer)

    def write(self, data: bytes) -> int:
        return self._keeping("write", data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._keeping("seek", offset, whence)  # which writes what is buffered

    def tell(self) -> int:
        return int(self._file.tell())

    def _keeping(self, method: str, *arguments: object) -> int:
        try:
            return int(getattr(self._file, method)(*arguments))
        except (OSError, FetchError, KeyboardInterrupt) as error:
            self._error = self._error or error
            return 0


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # it has no types
    """An audio file that is read on from where the last read ended.

    soundfile seeks there after each read. A decoder of MP3 loses by that what it keeps of the
    frames before: it clicks. Errors of the file below are raised as they are.
    """

    def __init__(self, file: IO[bytes] | FileIO) -> None:
        self._guarded = GuardedFile(file)
        with self._guarded.raising():
            super().__init__(self._guarded)

    def read(self, *, out: NDArray[Number]) -> NDArray[Number]:
        """Fill ``out``, (frames, channels), and return as much of it as there is."""
        with self._guarded.raising():
            read: NDArray[Number] = super().read(out=out)
        return read

    def seek(self, frames: int, whence: int = 0) -> int:
        with self._guarded.raising():
            return int(super().seek(frames, whence))

    def seekable(self) -> bool:
        return False


def probe_audio(path: Path) -> AudioInfo:
    """Read a recording's header.

    Raises:
        DecodeError: if the file is missing, empty, cut off, or no recording.
        FetchError, OSError: if it cannot be read.
    """
    size = _require_file(path)
    try:
        with PatientFile(path) as source, SequentialFile(source) as file:
            info = AudioInfo(file.samplerate, file.frames, size)
            require_whole_file(source.read_at, size)
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from None
    except soundfile.LibsndfileError as error:
        raise DecodeError(f"{path}: not a readable recording: {error.error_string}") from error
    if info.frames <= 0:
        raise DecodeError(f"{path}: holds no audio")
    if info.frames > PLAUSIBLE * size:
        raise DecodeError(f"{path}: declares {info.frames} frames in {size} bytes")
    return info


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

    Raises:
        OSError: if the file cannot be written.
    """
    frames, written = 0, CODECS[codec].written
    if not written:
        return _write_npy(file, blocks)
    guarded = GuardedFile(file)
    with (
        guarded.raising(),
        soundfile.SoundFile(guarded, "w", sample_rate, channels, **written) as encoder,
    ):
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
        require_whole(data)
        with held_back(), SequentialFile(BytesIO(data)) as file:
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
        found = patiently(path, path.stat)
    except (FileNotFoundError, NotADirectoryError):
        raise DecodeError(f"{path}: no such file") from None
    if not S_ISREG(found.st_mode):
        raise DecodeError(f"{path}: not a file")
    if not found.st_size:
        raise DecodeError(f"{path}: is empty")
    return found.st_size
