"""A file system that is as slow as a mounted Google Drive: for measuring only, read-only, FUSE.

    with mounted(folder) as slow: ...           folder's files, under a temporary mount point

What it models: every look-up, open and listing costs one round trip, and so does a read that does
not go on where the handle's last one ended, as no client could have prefetched it; and all bytes
pass one link, whoever reads them. Any number of requests is on its way at once. The kernel caches
and reads ahead as on any FUSE mount (128 KiB); beyond that nothing is prefetched. With
``fails_every`` one in so many reads is an I/O error, as on Drive. What it does not model:
quotas, and a varying link.

Needs libfuse 3 (Debian, Ubuntu: apt-get install fuse3) and mfusepy (pip install '.[bench]'). Up to
3.16.1 libfuse does not tell the kernel that look-ups in one folder may go side by side, as clients
of network storage do: they come one after the other. Where it is older than 3.17 and that matters,
build one (meson setup, ninja) and name it in FUSE_LIBRARY_PATH.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EIO, EROFS
from pathlib import Path
from signal import SIGTERM
from typing import Any

import mfusepy

LATENCY_S = 0.1
BYTES_PER_S = 10e6
_NEAR_BYTES = 1 << 20  # reads ahead arrive in any order
_BURST_S = 0.02  # what the link makes up for: timers that ring late
_START_S = 10.0
_SIGNALLED = 8  # what libfuse returns after a signal
_AT_ONCE = 100  # requests; libfuse serves 10, and the kernel reads 12 pieces ahead, by default
_PARALLEL_LOOK_UPS = 1 << 18  # FUSE_CAP_PARALLEL_DIROPS
LIBFUSE = (mfusepy.fuse_version_major, mfusepy.fuse_version_minor)


def looks_up_in_parallel() -> bool:
    """Whether libfuse is recent enough for look-ups in one folder to go side by side."""
    return LIBFUSE >= (3, 17)


@contextmanager
def mounted(
    folder: Path,
    *,
    latency_s: float = LATENCY_S,
    bytes_per_s: float = BYTES_PER_S,
    fails_every: int = 0,
) -> Iterator[Path]:
    """Mount a folder slowly, by a child process, for as long as the context lasts.

    Raises:
        OSError: if nothing is mounted; the message of libfuse goes to standard error.
    """
    figures = ["--latency-s", str(latency_s), "--bytes-per-s", str(bytes_per_s)]
    figures += ["--fails-every", str(fails_every)]
    with served([__file__, str(folder.resolve()), *figures]) as point:
        yield point


@contextmanager
def served(script: Sequence[str]) -> Iterator[Path]:
    """A mount point, the last argument of a script of Python that serves it.

    The script has to unmount once its standard input ends: also when this process is killed.
    """
    with (
        tempfile.TemporaryDirectory() as point,
        # in a session of its own, Ctrl-C reaches it through this process alone
        subprocess.Popen(
            [sys.executable, *script, point], stdin=subprocess.PIPE, start_new_session=True
        ) as child,
    ):
        try:
            _await_mount(point, child)
            yield Path(point)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()


def _await_mount(point: str, child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while not os.path.ismount(point):
        if child.poll() is not None or time.monotonic() > end:
            raise OSError(f"nothing could be mounted on {point}: is FUSE to be had here?")
        time.sleep(0.01)


class Link:
    """One line that all bytes pass, in the order in which they are asked for."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def carry(self, size: int) -> None:
        """Wait until ``size`` bytes have passed."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_S) + size / self._bytes_per_s
            wait = self._free_at - now
        time.sleep(max(0.0, wait))


class SlowFolder(mfusepy.Operations):
    """A folder's files, each request for which waits."""

    use_ns = True

    def __init__(self, folder: Path, link: Link, latency_s: float, fails_every: int) -> None:
        self._folder, self._link, self._latency_s = folder, link, latency_s
        self._fails_every, self._reads = fails_every, itertools.count(1)
        self._ends: dict[int, int] = {}  # of what was read last, by handle

    def init_with_config(self, connection: Any, config: Any) -> None:
        connection.want |= connection.capable & _PARALLEL_LOOK_UPS
        connection.max_background = _AT_ONCE

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path != "/" and fh is None:  # of an open file they are known
            self._round_trip()
        found = os.lstat(self._real(path))
        names = ("mode", "nlink", "uid", "gid", "size", "mtime_ns", "atime_ns", "ctime_ns")
        return {f"st_{name.removesuffix('_ns')}": getattr(found, f"st_{name}") for name in names}

    def readdir(self, path: str, fh: int) -> list[str]:
        self._round_trip()
        return [".", "..", *os.listdir(self._real(path))]

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(EROFS, os.strerror(EROFS))
        self._round_trip()
        handle = os.open(self._real(path), os.O_RDONLY)
        self._ends[handle] = -_NEAR_BYTES - 1
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        follows = abs(offset - self._ends[fh]) <= _NEAR_BYTES
        self._ends[fh] = offset + size
        if not follows:
            self._round_trip()
        if self._fails_every and next(self._reads) % self._fails_every == 0:
            raise OSError(EIO, os.strerror(EIO))
        data = os.pread(fh, size, offset)
        self._link.carry(len(data))
        return data

    def release(self, path: str, fh: int) -> int:
        del self._ends[fh]
        os.close(fh)
        return 0

    def _real(self, path: str) -> Path:
        return self._folder / path.lstrip("/")

    def _round_trip(self) -> None:
        time.sleep(self._latency_s)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("point", help="where to mount it")
    parser.add_argument("--latency-s", type=float, default=LATENCY_S)
    parser.add_argument("--bytes-per-s", type=float, default=BYTES_PER_S)
    parser.add_argument("--fails-every", type=int, default=0, help="reads; 0 is never")
    args = parser.parse_args()
    folder = SlowFolder(args.folder, Link(args.bytes_per_s), args.latency_s, args.fails_every)
    serve(folder, args.point, ro=True, fsname="slow", **_threads())


def serve(operations: mfusepy.Operations, point: str, **options: Any) -> None:
    """Serve a mount until standard input ends."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        mfusepy.FUSE(operations, point, foreground=True, **options)
    except RuntimeError as error:
        if error.args != (_SIGNALLED,):
            raise


def _threads() -> dict[str, int]:
    """libfuse's option for its number of threads, which came with 3.12."""
    return {"max_threads": _AT_ONCE, "max_idle_threads": _AT_ONCE} if LIBFUSE >= (3, 12) else {}


def _end_with_input() -> None:
    with suppress(OSError):
        sys.stdin.buffer.read()
    os.kill(os.getpid(), SIGTERM)  # libfuse unmounts


if __name__ == "__main__":
    main()
