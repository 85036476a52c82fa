"""Random access to the samples of a local tar shard, by position, through ``os.preadv``."""

import os
from pathlib import Path
from typing import Self

import numpy as np

from shards.errors import ShardError
from shards.index import Offsets, parse_index
from shards.tar import BLOCK, Member, scan, walk


class ShardReader:
    """Samples of one tar on a local file system.

    Reading takes no lock and leaves the file position alone, so threads may share a reader.
    A vanished mount is an OSError here, not the SIGBUS of a memory map.
    """

    def __init__(
        self, path: Path, *, samples: int | None = None, index: Path | None = None
    ) -> None:
        """Open a shard; with ``samples`` known and an index there nothing is scanned.

        Args:
            index: where its index is; None is beside it.

        Raises:
            ShardError: if the tar or its index is damaged, or ``samples`` is not its count.
            OSError: if the tar cannot be opened or read.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._members: list[tuple[Member, ...] | None]
            self._offsets = self._index(samples, index or path.with_name(path.name + ".idx"))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def offsets(self) -> Offsets:
        """(N + 1,) uint64: where each sample starts and the last one ends, in bytes."""
        return self._offsets

    def members(self, row: int) -> tuple[Member, ...]:
        """What sample ``row`` holds and where; its headers are read once and kept."""
        members = self._members[row]
        if members is None:
            start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
            try:
                members = tuple(walk(self.read_at, start, stop))
            except ShardError as error:
                raise ShardError(f"{self.path}: sample {row}: {error}") from error
            if not members or any(member.key != members[0].key for member in members):
                raise ShardError(f"{self.path}: its index is not its own: sample {row} is torn")
            self._members[row] = members
        return members

    def read(self, row: int) -> dict[str, bytes]:
        """The files of one sample by extension, such as ``flac`` and ``mid``."""
        return {m.extension: self._exactly(m.start, m.size) for m in self.members(row)}

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill ``buffer`` with the tar's bytes from ``start``, without a copy in between.

        Raises:
            ShardError: if the tar ends before the buffer is full.
        """
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], start + done)
            if not count:
                raise ShardError(f"{self.path}: truncated at byte {start + done}")
            done += count

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer at the end of the file."""
        return os.pread(self._fd, size, offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _exactly(self, start: int, size: int) -> bytes:
        data = bytearray(size)
        self.read_into(memoryview(data), start)
        return bytes(data)

    def _index(self, samples: int | None, index: Path) -> Offsets:
        if samples is not None and index.exists():
            self._members = [None] * samples
            size = os.fstat(self._fd).st_size
            offsets = parse_index(
                index.read_bytes(), samples=samples, tar_bytes=size, name=str(index)
            )
            if samples and int(offsets[-1]) == size:  # Lhotse's: the last sample ends before it
                offsets[-1] = self._end(int(offsets[-2]))
            return offsets
        return self._scan(samples)

    def _end(self, start: int) -> int:
        """Where the last sample, which begins at ``start``, ends."""
        try:
            *_, last = walk(self.read_at, start, None)
        except (ShardError, ValueError) as error:
            raise ShardError(f"{self.path}: last sample, at byte {start}: {error}") from error
        return last.start + last.size + -last.size % BLOCK

    def _scan(self, samples: int | None) -> Offsets:
        try:
            found, end = scan(self.read_at)
        except ShardError as error:
            raise ShardError(f"{self.path}: {error}") from error
        if samples is not None and len(found) != samples:
            raise ShardError(f"{self.path}: holds {len(found)} samples, not {samples}")
        self._members = [tuple(members) for members in found]
        return np.array([*(members[0].header for members in found), end], dtype=np.uint64)
