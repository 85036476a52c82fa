"""Tells disks from mounts by the type of the file system that a path lies on."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

# file systems of a disk or of memory in this machine; anything else may be slow or go away
_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs"}
_IMAGES = {"overlay", "aufs", "tmpfs", "ramfs", "rootfs", "squashfs", "erofs"}
_FOREIGN = {"apfs", "hfs", "ntfs3", "vfat", "exfat"}
_LOCAL = _DISKS | _IMAGES | _FOREIGN
_OCTAL = re.compile(r"\\([0-7]{3})")
MOUNTINFO = Path("/proc/self/mountinfo")


def file_system(path: Path, *, mountinfo: Path = MOUNTINFO) -> str:
    """Type of the file system that holds ``path``, such as ``ext4`` or ``fuse.drive``.

    The path itself need not exist. Where the kernel does not tell, it is ``unknown``.
    """
    wanted = os.path.realpath(path)
    best, kind = "", "unknown"
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return kind
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind


def on_colab(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a machine of Google Colab."""
    return "COLAB_RELEASE_TAG" in environ or Path("/content/sample_data").is_dir()


def is_local(path: Path, *, mountinfo: Path = MOUNTINFO) -> bool:
    """Whether a path lies on a disk of this machine: not on FUSE, NFS, CIFS, 9p, Lustre, ..."""
    return file_system(path, mountinfo=mountinfo) in _LOCAL
