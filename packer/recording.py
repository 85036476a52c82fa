"""Segments of a recording, read and resampled in blocks, so that none has to fit into memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from packer.audio import SequentialFile
from packer.patience import PatientFile
from shards.errors import DecodeError
from shards.pcm import INT16_SCALE, mix_down, to_int16

BLOCK = 1 << 16  # frames read at a time
SILENT = 1  # int16 peak up to which a segment is silent: -90 dBFS
CLIPPED_SHARE, CLIPPED_RUN = 0.001, 4  # of the frames, or in a row, at full scale
_FULL_SCALE = {np.dtype(np.int16): 32767, np.dtype(np.float32): 32767 / 32768}
_MP3_MEMORY_S = 0.5  # how far back an MP3's frames may refer, and more

Read = NDArray[np.int16] | NDArray[np.float32]  # (frames, channels), as a recording stores them
Sound = NDArray[np.float32]  # (frames, channels) in [-1, 1)
Samples = NDArray[np.int16]  # (frames, channels)


@dataclass(slots=True)
class Level:
    """How loud a segment is, known once all of its blocks have passed.

    Attributes:
        peak: highest magnitude of its int16 samples.
        frames: frames read of the recording.
        full: how many of them are at full scale, in any channel.
        longest: how many of those lie in a row, at most.
    """

    peak: int = 0
    frames: int = 0
    full: int = 0
    longest: int = 0
    _run: int = 0

    @property
    def clipped(self) -> bool:
        return self.full >= CLIPPED_SHARE * max(self.frames, 1) or self.longest >= CLIPPED_RUN

    def hear(self, block: Read) -> bool:
        """Count a block as it is recorded; False if it holds what is no finite number."""
        low, high, full = block.min().item(), block.max().item(), _FULL_SCALE[block.dtype]
        self.frames += len(block)
        if max(-low, high) < full:
            self._run = 0
        else:
            self._count(np.any((block >= full) | (block <= -full), axis=1))
        return math.isfinite(low) and math.isfinite(high)

    def _count(self, full: NDArray[np.bool_]) -> None:
        self.full += int(np.count_nonzero(full))
        gaps = np.flatnonzero(~full)
        if not len(gaps):
            self._run += len(full)
            self.longest = max(self.longest, self._run)
            return
        within = np.diff(gaps).max(initial=1) - 1
        self.longest = max(self.longest, self._run + int(gaps[0]), int(within))
        self._run = len(full) - 1 - int(gaps[-1])
        self.longest = max(self.longest, self._run)


class OpenRecording:
    """A recording, opened when the first segment is read and open until it is closed.

    Segments of one file come out the same in whatever order they are read, but for MP3: there the
    decoder's state may turn the rounding of a sample here and there.
    """

    def __init__(self, path: Path | None) -> None:
        """Open nothing yet; None is the recording of MIDI alone, which has no segments."""
        self.path = path
        self._source: PatientFile | None = None
        self._file: SequentialFile | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._source is not None:
            self._source.close()
        self._source = self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def sample_rate(self) -> int:
        """Hz; DecodeError if the file cannot be opened."""
        return int(self._open().samplerate)

    def segment(
        self,
        *,
        start_s: float,
        end_s: float | None,
        sample_rate: int,
        channels: int,
        level: Level | None = None,
    ) -> Iterator[Samples]:
        """Yield (frames, channels) int16 blocks of ``[start_s, end_s)`` at ``sample_rate``.

        Mono is the mean of the recording's channels. Stereo keeps those of a recording of two;
        other recordings have their mean in both.

        Args:
            end_s: None is the recording's end.
            level: what learns how loud it is.

        Raises:
            DecodeError: if the recording ends or breaks off before the segment does.
            FetchError: if its disk or mount is away.
        """
        level = level or Level()
        rate = self.sample_rate
        stream = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, channels)
        first, last = self._span(start_s, end_s)
        scaled = np.empty((BLOCK, self._open().channels), dtype=np.float32)
        mixed = np.empty(BLOCK, dtype=np.float32)
        for block in self._blocks(first, last):
            if not level.hear(block):
                raise DecodeError(f"{self.path}: holds samples that are not finite numbers")
            sound = _as_float(block, scaled[: len(block)])
            sound = _with_channels(sound, channels, mixed[: len(block)])
            if stream is not None:
                ends = level.frames == last - first
                sound = stream.resample_chunk(sound, last=ends)
            samples = to_int16(sound)
            if len(samples):  # a resampler may hold back all of a block
                level.peak = max(level.peak, int(samples.max()), -int(samples.min()))
                yield samples

    def _span(self, start_s: float, end_s: float | None) -> tuple[int, int]:
        """First frame of a segment, and the one after its last."""
        file = self._open()
        last = file.frames if end_s is None else min(round(end_s * file.samplerate), file.frames)
        return round(start_s * file.samplerate), last

    def _blocks(self, first: int, last: int) -> Iterator[Read]:
        """Blocks, each overwritten by the next; int16 where that is what the file holds.

        libsndfile reads such a block in one piece, and converts any other 8 KiB at a time.
        """
        done = 0
        try:
            file = self._go_to(first)
            stored = np.int16 if file.subtype == "PCM_16" else np.float32
            memory = np.empty((min(BLOCK, last - first), file.channels), dtype=stored)
            while done < last - first:
                got = len(file.read(out=memory[: last - first - done]))
                if not got:
                    raise DecodeError(f"{self.path}: breaks off: {done} of {last - first} frames")
                yield memory[:got]
                done += got
        except (soundfile.LibsndfileError, OSError) as error:
            raise DecodeError(f"{self.path}: {error}") from error

    def _go_to(self, frame: int) -> SequentialFile:
        """The file, to be read on from a frame; some decoders get there only by decoding."""
        file = self._open()
        if file.subtype == "VORBIS":  # where libsndfile 1.2.2 misses one place in a few hundred
            if file.tell() > frame:
                self.close()
            file = self._open()
        else:
            memory = round(_MP3_MEMORY_S * file.samplerate) if file.format == "MP3" else 0
            file.seek(max(0, frame - memory))
        skipped = np.empty((min(BLOCK, frame - file.tell()), file.channels), dtype=np.float32)
        while (left := frame - file.tell()) and len(file.read(out=skipped[:left])):
            pass
        return file

    def _open(self) -> SequentialFile:
        if self._file is None:
            assert self.path is not None
            try:
                self._source = PatientFile(self.path)
                self._file = SequentialFile(self._source)
            except soundfile.LibsndfileError as error:
                raise DecodeError(f"{self.path}: {error.error_string}") from error
            except OSError as error:
                raise DecodeError(f"{self.path}: {error.strerror}") from error
        return self._file


def _as_float(block: Read, out: Sound) -> Sound:
    """In [-1, 1), exactly; in ``out`` unless it is float already.

    Memory that is used again and again: the pages of fresh one cost more than the scaling.
    """
    if block.dtype == np.int16:
        return np.multiply(block, np.float32(1 / INT16_SCALE), out=out)
    return block.astype(np.float32, copy=False)


def _with_channels(block: Sound, channels: int, out: NDArray[np.float32]) -> Sound:
    if block.shape[1] == channels:
        return block
    mono = mix_down(block, out)[:, None]
    return mono if channels == 1 else np.repeat(mono, channels, axis=1)
