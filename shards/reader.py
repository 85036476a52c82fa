"""Random access to the samples of a tar shard, by position."""

import os
import stat
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from shards.errors import ShardError
from shards.index import Offsets, parse_index
from shards.tar import BLOCK, Member, scan, walk


class TarFile(Protocol):
    """A tar that is read here and there, by any number of threads.

    Attributes:
        name: its path or URL, for messages.
        size: in bytes.
        inode: its number on this machine; 0 if it is elsewhere.
    """

    name: str
    size: int
    inode: int

    def expect(self, start: int, stop: int) -> None:
        """Be told what will be read soon."""

    def forget(self, start: int) -> None:
        """Be told that what was expected from there on was read."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer at the end of the file."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read into a buffer; how many bytes, which is 0 only at the end of the file."""

    def close(self) -> None: ...


class LocalFile:
    """A file of this machine. A vanished mount is an OSError, not the SIGBUS of a memory map."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            OSError: if it cannot be opened.
            ShardError: if it is a pipe, device or folder: reading one may never end.
        """
        self.name = str(path)
        # a pipe would be waited for
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(self.descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ShardError(f"{path}: is no plain file: refused")
        except BaseException:
            self.close()
            raise
        self.size, self.inode = found.st_size, found.st_ino

    def expect(self, start: int, stop: int) -> None: ...

    def forget(self, start: int) -> None: ...

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return os.preadv(self.descriptor, [buffer], offset)

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1  # it is gone even where that fails
        if descriptor >= 0:
            os.close(descriptor)


def read_index(path: Path, *, samples: int) -> bytes:
    """Content of an index, but no more of it than would be too much.

    Raises:
        OSError: if it cannot be opened or read.
        ShardError: if it is a pipe, device or folder.
    """
    file = LocalFile(path)
    try:
        return file.read_at(0, 8 * (samples + 2))
    finally:
        file.close()


class ShardReader:
    """Samples of one tar. Reading takes no lock, so threads may share a reader."""

    def __init__(
        self, file: Path | TarFile, *, samples: int | None = None, index: Path | bytes | None = None
    ) -> None:
        """Open a shard; with ``samples`` known and an index there nothing is scanned.

        Args:
            file: path of a local tar, or any tar that can be read here and there.
            index: content of its index, or where that is; None is beside a local tar.

        Raises:
            ShardError: if the tar or its index is damaged, or ``samples`` is not its count.
            OSError: if the tar cannot be opened or read.
        """
        self._file = LocalFile(file) if isinstance(file, Path) else file
        if index is None and isinstance(file, Path):
            index = file.with_name(f"{file.name}.idx")
        try:
            self._members: list[tuple[Member, ...] | None]
            self._offsets = self._index(samples, index)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def name(self) -> str:
        """Path or URL of the tar."""
        return self._file.name

    @property
    def size(self) -> int:
        """Bytes of the tar."""
        return self._file.size

    @property
    def inode(self) -> int:
        """Number of the file, which another one at its path does not have; 0 if it is remote."""
        return self._file.inode

    @property
    def offsets(self) -> Offsets:
        """(N + 1,) uint64: where each sample starts and the last one ends, in bytes."""
        return self._offsets

    def expect(self, row: int) -> None:
        """Say that all of a sample will be read soon, until it is forgotten."""
        self._file.expect(int(self._offsets[row]), int(self._offsets[row + 1]))

    def forget(self, row: int) -> None:
        """Say that a sample was read."""
        self._file.forget(int(self._offsets[row]))

    def members(self, row: int) -> tuple[Member, ...]:
        """What sample ``row`` holds and where; its headers are read once and kept."""
        members = self._members[row]
        if members is None:
            start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
            try:
                members = tuple(walk(self._file.read_at, start, stop))
            except ShardError as error:
                raise ShardError(f"{self._file.name}: sample {row}: {error}") from error
            if not members or any(member.key != members[0].key for member in members):
                raise ShardError(
                    f"{self._file.name}: its index is not its own: sample {row} is torn"
                )
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
            count = self._file.read_into(buffer[done:], start + done)
            if not count:
                raise ShardError(
                    f"{self._file.name}: truncated at byte {start + done}; copy it anew"
                )
            done += count

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer at the end of the file."""
        return self._file.read_at(offset, size)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _exactly(self, start: int, size: int) -> bytes:
        data = bytearray(size)
        self.read_into(memoryview(data), start)
        return bytes(data)

    def _index(self, samples: int | None, index: Path | bytes | None) -> Offsets:
        data = index
        if samples is not None and isinstance(index, Path) and index.exists():
            data = read_index(index, samples=samples)
        if samples is None or not isinstance(data, bytes):
            return self._scan(samples)
        self._members = [None] * samples
        name = str(index) if isinstance(index, Path) else f"{self._file.name}.idx"
        size = self._file.size
        offsets = parse_index(data, samples=samples, tar_bytes=size, name=name)
        if samples and int(offsets[-1]) == size:  # Lhotse's: the last sample ends before it
            offsets[-1] = self._end(int(offsets[-2]))
        return offsets

    def _end(self, start: int) -> int:
        """Where the last sample, which begins at ``start``, ends."""
        try:
            *_, last = walk(self._file.read_at, start, None)
        except (ShardError, ValueError) as error:
            raise ShardError(f"{self._file.name}: last sample, at byte {start}: {error}") from error
        return last.start + last.size + -last.size % BLOCK

    def _scan(self, samples: int | None) -> Offsets:
        try:
            found, end = scan(self._file.read_at)
        except ShardError as error:
            raise ShardError(f"{self._file.name}: {error}") from error
        if samples is not None and len(found) != samples:
            raise ShardError(f"{self._file.name}: holds {len(found)} samples, not {samples}")
        self._members = [tuple(members) for members in found]
        return np.array([*(members[0].header for members in found), end], dtype=np.uint64)
