"""An fsspec filesystem over a local folder that counts reads and fails as it is told."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class FaultFileSystem(LocalFileSystem):
    """``fault:///path``: local files that do not count as local.

    ``break_after`` holds, by file name, how many bytes a read gives before it fails once;
    ``spoil`` the names whose next read has a flipped bit; ``broken`` those that never open;
    ``failing`` how often a whole read fails yet, by name; ``forbidden`` the suffixes that are
    refused. ``reads`` counts bytes by name, ``asked`` lists the names of all reads.
    ``write_errors`` holds the errno that a write fails with, by its number; ``written``
    lists the names of all writes.
    """

    protocol = "fault"
    cachable = False
    opened: ClassVar[Counter[str]] = Counter()
    reads: ClassVar[Counter[str]] = Counter()
    break_after: ClassVar[dict[str, int]] = {}
    spoil: ClassVar[set[str]] = set()
    broken: ClassVar[set[str]] = set()
    failing: ClassVar[Counter[str]] = Counter()
    forbidden: ClassVar[set[str]] = set()
    asked: ClassVar[list[str]] = []
    write_errors: ClassVar[dict[int, int]] = {}
    written: ClassVar[list[str]] = []
    delay_s: ClassVar[float] = 0.0
    log: ClassVar[list[str]] = []
    lock = threading.Lock()

    @classmethod
    def reset(cls) -> None:
        for counted in (cls.opened, cls.reads, cls.break_after, cls.failing, cls.write_errors):
            counted.clear()
        for named in (cls.spoil, cls.broken, cls.forbidden, cls.log, cls.asked, cls.written):
            named.clear()
        cls.delay_s = 0.0

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("fault://"))

    def unstrip_protocol(self, name):
        return f"fault://{name}"

    def open(self, path, mode="rb", **options):
        name = Path(path).name
        with self.lock:
            type(self).opened[name] += 1
            type(self).log.append(name)
            type(self).asked.append(name)
        if name in self.broken:
            raise OSError(5, "Input/output error")
        return _FaultFile(Path(self._strip_protocol(path)), type(self))

    def cat_file(self, path, start=None, end=None, **options):
        name = Path(path).name
        self.asked.append(name)
        if any(name.endswith(suffix) for suffix in self.forbidden):
            raise PermissionError(13, "Permission denied", name)
        if self.failing[name]:
            self.failing[name] -= 1
            raise OSError(5, "Input/output error")
        data = Path(self._strip_protocol(path)).read_bytes()
        return data[start:end]

    def pipe_file(self, path, value, **options):
        self._write(path, value)

    def put_file(self, lpath, rpath, **options):
        self._write(rpath, Path(lpath).read_bytes())

    def _write(self, path, data):
        """Make an object, which is there whole or not at all."""
        with self.lock:
            number = len(self.written)
            self.written.append(Path(path).name)
        if number in self.write_errors:
            raise OSError(self.write_errors[number], "as told")
        target = Path(self._strip_protocol(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


class _FaultFile:
    def __init__(self, path: Path, control: type[FaultFileSystem]) -> None:
        self._file, self._name, self._control = path.open("rb"), path.name, control

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._file.close()

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def read(self, size: int) -> bytes:
        control = self._control
        time.sleep(control.delay_s)
        limit = control.break_after.get(self._name)
        if limit is not None:
            size = min(size, limit - self._file.tell())
            if size <= 0:
                del control.break_after[self._name]
                raise OSError(5, "Input/output error")
        data = self._file.read(size)
        control.reads[self._name] += len(data)
        if data and self._name in control.spoil:
            control.spoil.discard(self._name)
            data = bytes([data[0] ^ 1]) + data[1:]
        return data


fsspec.register_implementation("fault", FaultFileSystem, clobber=True)
