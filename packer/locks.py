"""Locks that keep a user's builds, on one machine, out of each other's targets."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from shards.errors import FetchError
from shards.mounts import file_system, is_local

_PRIVATE = 0o700


@contextmanager
def locked(root: Path, urls: Collection[str]) -> Iterator[None]:
    """Keep this user's other builds on this machine away from some targets, whatever their spools.

    A build of the folder above a target would clear it away, so that folder is kept too, but
    shared with all who write below it. The kernel ends it with us.

    Args:
        root: folder of the spools.
        urls: identities of the targets.

    Raises:
        FetchError: if another build holds one of them, ``root`` lies on no local disk, or the
            folder of the locks may be changed by somebody else.
    """
    if not is_local(root) and file_system(root) != "unknown":
        raise FetchError(
            f"{root}: lies on {file_system(root)}, which may go away; pass --spool with a folder "
            "on a disk of this machine"
        )
    root.mkdir(parents=True, exist_ok=True)
    locks = _lock_folder()
    above = {url.rpartition("/")[0] for url in urls} - set(urls)
    held: list[tuple[Path, int]] = []
    try:
        for url in sorted({*urls, *above}):
            path = locks / f"{sha256(url.encode()).hexdigest()[:16]}.lock"
            held.append((path, _lock(path, url, shared=url in above)))
        yield
    finally:
        for path, descriptor in held:
            _unlock(path, descriptor)


def _lock_folder() -> Path:
    """The folder of this user's locks, among the temporary files that all users share."""
    folder = Path(tempfile.gettempdir()) / f"packer-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        fault = "is a link"
    elif found.st_uid != os.getuid():
        fault = f"belongs to the user of number {found.st_uid}"
    elif (mode := stat.S_IMODE(found.st_mode)) != _PRIVATE:
        fault = f"has mode {mode:04o} and not {_PRIVATE:04o}"
    else:
        return folder
    raise FetchError(
        f"{folder}: {fault}, so others may change the locks in it; remove it, or set TMPDIR to a "
        "folder of your own"
    )


def _lock(path: Path, url: str, *, shared: bool) -> int:
    """A descriptor that holds the lock, whose file is still the one of that name."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise FetchError(
                f"{url}: another build on this machine writes there; wait for it, or choose "
                "another folder"
            ) from None
        except FileNotFoundError:  # who held it before removed it after we had opened it
            pass
        os.close(descriptor)


def _unlock(path: Path, descriptor: int) -> None:
    """Give a lock back; its file goes with the last who holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:  # somebody shares it
        pass
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
