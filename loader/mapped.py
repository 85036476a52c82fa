"""A decoded shard of the cache, mapped into memory: its audio is read without a copy."""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.npy import npy_view
from shards.reader import LocalFile, ShardReader

_UNKNOWN = np.empty(0, dtype=np.int16)


class MappedReader(ShardReader):
    """Reads a decoded copy that this cache made, holds pinned and never shortens.

    Other files are not mapped: when a mount goes away, touching a map of it kills the process.
    """

    def __init__(self, path: Path, *, samples: int) -> None:
        """Open and map a copy.

        Raises:
            ShardError: if the tar or its index is damaged, or ``samples`` is not its count.
        """
        file = LocalFile(path)
        index = path.with_name(f"{path.name}.idx")
        self._map: mmap.mmap | None = None
        super().__init__(file, samples=samples, index=index)
        try:
            self._map = mmap.mmap(file.descriptor, 0, prot=mmap.PROT_READ)
        except BaseException:
            self.close()
            raise
        self._pcm: list[NDArray[np.int16] | None] = [_UNKNOWN] * samples

    def pcm(self, row: int) -> NDArray[np.int16] | None:
        """(frames,) int16: the audio of a sample where it lies; None if it is not decoded.

        Raises:
            DecodeError: if it is damaged.
            ShardError: if the shard is damaged there.
        """
        pcm = self._pcm[row]
        if pcm is _UNKNOWN:
            pcm = self._pcm[row] = self._find(row)
        return pcm

    def close(self) -> None:
        """Close the file; the map goes with the last array over it."""
        self._map, self._pcm = None, []
        super().close()

    def _find(self, row: int) -> NDArray[np.int16] | None:
        for member in self.members(row):
            if member.extension == "audio.npy":
                assert self._map is not None
                data = memoryview(self._map)[member.start : member.start + member.size]
                array = npy_view(data)
                return array if array.dtype == np.int16 and array.ndim == 1 else None
        return None
