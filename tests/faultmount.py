"""A FUSE mount of a folder that fails as it is told; the tests skip where FUSE is not to be had.

    with mounted(folder) as mount: ...      mount.point holds the folder's files

A child process serves it. What it is to do lies in a file that it reads at each request.
"""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

_START_S = 10.0
_LONGEST_READ_BYTES = 16384  # short ones, so that many can fail


def require_fuse() -> None:
    """Skip a test where something is missing, naming it."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or may not be opened")
    if not shutil.which("fusermount3"):
        pytest.skip("fusermount3 is missing: apt-get install fuse3")
    try:
        import mfusepy  # noqa: F401 - whether it can be
    except (ImportError, OSError) as error:
        pytest.skip(f"mfusepy cannot be imported: {error}")


class Mount:
    """A mount and its child.

    ``set`` tells it what to do: ``share`` of reads that fail with EIO, ``stall`` the names whose
    reads hang, ``stalls`` how many of them do, ``flush`` those that hang when they are closed.
    ``injected`` counts what it did.
    """

    def __init__(self, folder: Path, point: Path, work: Path) -> None:
        self.folder, self.point = folder, point
        self._control, self._counts = work / "control.json", work / "counts"
        self._child: subprocess.Popen[bytes] | None = None
        self.set()

    def set(
        self,
        *,
        share: float = 0.0,
        stall: tuple[str, ...] = (),
        stalls: int = 0,
        flush: tuple[str, ...] = (),
    ) -> None:
        told = {"share": share, "stall": stall, "stalls": stalls, "flush": flush}
        draft = self._control.with_suffix(".draft")
        draft.write_text(json.dumps(told))
        os.replace(draft, self._control)

    @property
    def injected(self) -> int:
        return self._counts.stat().st_size if self._counts.exists() else 0

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.folder), str(self.point)]
        command += [str(self._control), str(self._counts)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        end = time.monotonic() + _START_S
        while not os.path.ismount(self.point):
            if self._child.poll() is not None or time.monotonic() > end:
                raise OSError(f"FUSE could not mount on {self.point}")
            time.sleep(0.01)

    def vanish(self) -> None:
        """Have the child die: the kernel answers ENOTCONN from then on."""
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.kill()
        self._child.wait()
        self._child.stdin.close()

    def come_back(self) -> None:
        self.unmount()
        self.start()

    def unmount(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self.vanish()
        subprocess.run(["fusermount3", "-uz", str(self.point)], stderr=subprocess.DEVNULL)


@contextmanager
def mounted(folder: Path) -> Iterator[Mount]:
    """Mount a folder's files, read-only and uncached by the kernel."""
    require_fuse()
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as point:
        mount = Mount(folder, Path(point), Path(work))
        mount.start()
        try:
            yield mount
        finally:
            mount.unmount()


def _serve(folder: str, point: str, control: str, counts: str) -> None:
    import mfusepy
    from slowfs import Link, SlowFolder

    dice = random.Random(0)
    state = {"stalled": 0}

    class FaultFolder(SlowFolder):
        def init_with_config(self, connection: Any, config: Any) -> None:
            super().init_with_config(connection, config)
            connection.max_read = _LONGEST_READ_BYTES  # libfuse wants to be told twice

        def read(self, path: str, size: int, offset: int, fh: int) -> Any:
            told = json.loads(Path(control).read_text())
            if path.lstrip("/") in told["stall"] and state["stalled"] < told["stalls"]:
                state["stalled"] += 1
                self._count()
                while path.lstrip("/") in json.loads(Path(control).read_text())["stall"]:
                    time.sleep(0.02)
            if dice.random() < told["share"]:
                self._count()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(path, size, offset, fh)

        def flush(self, path: str, fh: int) -> int:
            name = path.lstrip("/")
            if name in json.loads(Path(control).read_text())["flush"]:
                self._count()
            while name in json.loads(Path(control).read_text())["flush"]:
                time.sleep(0.02)
            return 0

        def _count(self) -> None:
            with open(counts, "ab") as file:
                file.write(b".")

    files = FaultFolder(Path(folder), Link(1e12), 0.0, fails_every=0)
    with suppress(RuntimeError):  # what libfuse returns after a signal
        mfusepy.FUSE(
            files,
            point,
            foreground=True,
            ro=True,
            direct_io=True,
            max_read=_LONGEST_READ_BYTES,
            fsname="fault",
        )


if __name__ == "__main__":
    _serve(*sys.argv[1:])
