"""Whether packing onto a mount that fails comes out right: all bytes as on a disk, nothing corrupt.

    python benchmarks/faulty_mount.py --out build/faulty_mount.json

The mount is FUSE, over a folder of the disk. Two of a hundred writes fail with EIO, having written
half of what they were to, and so do as many renames; once, when a part of the shards is there, the
whole mount is gone for five seconds (ENOTCONN). The dataset packed onto it is compared with one
packed onto the disk, byte by byte, and read back.
"""

import argparse
import json
import os
import random
import shutil
import sys
import threading
import time
from errno import EIO, ENOTCONN
from pathlib import Path
from typing import Any

import mfusepy
import numpy as np
import soundfile
from machine import command, describe
from slowfs import serve, served
from tables import facts

from packer.build import build
from packer.options import Options
from packer.verify import verify

FAILING, AWAY_S, AWAY_AFTER = 0.02, 5.0, 12  # share of writes; seconds; renames
RATE = 24_000
SERVE = "serve"


def main() -> None:
    if sys.argv[1:2] == [SERVE]:
        serve(FaultyFolder(Path(sys.argv[2])), sys.argv[3], fsname="faulty")
        return
    args = _arguments()
    shutil.rmtree(args.work, ignore_errors=True)
    behind = args.work / "behind"
    behind.mkdir(parents=True)
    annotations = _corpus(args.work / "corpus", args.clips)
    straight, began = _packed(annotations, args.work / "straight"), time.perf_counter()
    with served([__file__, SERVE, str(behind.resolve())]) as mount:
        found = _packed(annotations, mount / "out")
        seconds = time.perf_counter() - began
        (checked,) = verify(str(mount / "out"), progress=False)
    counts = json.loads((behind / "counts.json").read_text())
    outcome = {
        **counts,
        "seconds": round(seconds, 1),
        "equal to a disk's": found == straight,
        "faults found by verify": list(checked.faults),
    }
    report = {
        "machine": describe("mfusepy", "soundfile"),
        "command": command("benchmarks/faulty_mount.py", args),
        "measure": "One run",
        **outcome,
        "tables": [facts("Packing onto a mount that fails", outcome)],
        "notes": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    assert found == straight, "the dataset is another one"
    assert not checked.faults
    assert counts["failed"], "nothing failed: pack more"
    assert counts["refused"], "the mount never went away: pack more"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/faulty_mount"))
    parser.add_argument("--out", type=Path, default=Path("build/faulty_mount.json"))
    parser.add_argument("--clips", type=int, default=400)
    return parser.parse_args()


def _corpus(folder: Path, clips: int) -> Path:
    folder.mkdir()
    lines = []
    for number in range(clips):
        sound = 0.1 * np.random.default_rng(number).standard_normal(5 * RATE)
        soundfile.write(folder / f"{number}.wav", sound, RATE)
        lines.append(json.dumps({"audio_path": f"{number}.wav", "labels": {"number": number}}))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "annotations.jsonl"


def _packed(annotations: Path, out: Path) -> dict[str, bytes]:
    """What is in the folder once it is packed, by name."""
    options = Options(sample_rate=RATE, shard_bytes=3_000_000, group_bytes=20_000_000)
    build(annotations, str(out), options=options, progress=False)
    return {path.name: path.read_bytes() for path in out.iterdir()}


class FaultyFolder(mfusepy.Operations):
    """A folder that can be written to, most of the time; always with the same faults."""

    use_ns = True

    def __init__(self, folder: Path) -> None:
        self._folder, self._random, self._lock = folder, random.Random(0), threading.Lock()
        self._counts = {"writes": 0, "renames": 0, "failed": 0, "away": 0, "refused": 0}
        self._away_until = 0.0

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._real(path))
        names = ("mode", "nlink", "uid", "gid", "size", "mtime_ns", "atime_ns", "ctime_ns")
        return {f"st_{name.removesuffix('_ns')}": getattr(found, f"st_{name}") for name in names}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._real(path))]

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._require_there()
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._require_there()
        if self._fails("writes"):
            os.pwrite(fh, data[: len(data) // 2], offset)
            raise OSError(EIO, os.strerror(EIO))
        return os.pwrite(fh, data, offset)

    def rename(self, old: str, new: str) -> int:
        self._require_there()
        if self._fails("renames"):
            raise OSError(EIO, os.strerror(EIO))
        os.replace(self._real(old), self._real(new))
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._real(path), length)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._real(path))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._real(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._real(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._real(path), mode)
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        os.utime(self._real(path), ns=times)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._real(path))
        names = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "namemax")
        return {f"f_{name}": getattr(found, f"f_{name}") for name in names}

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def destroy(self, path: str) -> None:
        (self._folder / "counts.json").write_text(json.dumps(self._counts))

    def _fails(self, kind: str) -> bool:
        """Whether a write or rename fails; once there were many renames, all goes away."""
        with self._lock:
            self._counts[kind] += 1
            if self._counts["renames"] == AWAY_AFTER and not self._counts["away"]:
                self._counts["away"] = 1
                self._away_until = time.monotonic() + AWAY_S
                return True
            failed = self._random.random() < FAILING
            self._counts["failed"] += failed
            return failed

    def _require_there(self) -> None:
        if time.monotonic() < self._away_until:
            with self._lock:
                self._counts["refused"] += 1
            raise OSError(ENOTCONN, os.strerror(ENOTCONN))

    def _real(self, path: str) -> Path:
        self._require_there()
        return self._folder / path.lstrip("/")


if __name__ == "__main__":
    main()
