"""packer.target: files appear whole; what fails for a while is done again, the rest is told."""

import errno
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import aiohttp
import botocore.exceptions
import pytest
from faultfs import FaultFileSystem

from packer import target as targets
from packer.target import Target
from shards import retry
from shards.errors import FetchError
from shards.retry import may_pass

DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _soon(monkeypatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def faults() -> Iterator[type[FaultFileSystem]]:
    FaultFileSystem.reset()
    yield FaultFileSystem
    FaultFileSystem.reset()


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def elsewhere(monkeypatch) -> None:
    """Let a rename fail as between two disks, so that files are copied."""
    replace = os.replace

    def refusing(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(targets.os, "replace", refusing)


def failing(monkeypatch, name: str, *errors: OSError) -> list[OSError]:
    """Let a function of ``shutil`` fail with these errors first, after half of the bytes."""
    works, left = getattr(targets.shutil, name), list(errors)

    def broken(source, target):
        if left:
            Path(target).write_bytes(DATA[: len(DATA) // 2])
            raise left.pop(0)
        works(source, target)

    monkeypatch.setattr(targets.shutil, name, broken)
    return left


# --- what passes


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "x") for number in (errno.EIO, errno.ENOTCONN, errno.ESTALE)),
        *(OSError(number, "x") for number in (errno.ETIMEDOUT, errno.EBUSY, errno.ECONNRESET)),
        OSError("a client's own words"),
        TimeoutError(),
        EOFError(),
        aiohttp.ServerDisconnectedError(),
        *(aiohttp.ClientResponseError(None, (), status=status) for status in (408, 429, 500, 503)),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
    ],
    ids=repr,
)
def test_what_networks_and_mounts_do_may_pass(error):
    assert isinstance(error, retry.network_errors())
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "x") for number in (errno.ENOENT, errno.EACCES, errno.EROFS)),
        *(OSError(number, "x") for number in (errno.ENOSPC, errno.EDQUOT, errno.EISDIR)),
        FileNotFoundError("no number"),
        PermissionError("no number"),
        *(aiohttp.ClientResponseError(None, (), status=status) for status in (400, 403, 404)),
        botocore.exceptions.NoCredentialsError(),
    ],
    ids=repr,
)
def test_what_is_wrong_for_good_does_not(error):
    assert isinstance(error, retry.network_errors())
    assert not may_pass(error)


def test_pauses_grow_until_patience_is_at_its_end(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.5)
    clock, pauses, attempts = [0.0], [], []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    def action() -> None:
        attempts.append(clock[0])
        raise OSError(errno.EIO, "x")

    monkeypatch.setattr(retry.time, "monotonic", lambda: clock[0])
    with pytest.raises(OSError, match="x"):
        retry.retry(action, patience_s=100.0, pause=pause)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert len(attempts) == 9


# --- local folders


def test_a_file_is_moved_where_that_is_possible(source, tmp_path):
    inode = source.stat().st_ino
    Target(str(tmp_path / "out")).put(source, "a.tar")
    assert (tmp_path / "out" / "a.tar").stat().st_ino == inode
    assert not source.exists()


@pytest.mark.usefixtures("elsewhere")
def test_a_copy_that_fails_is_made_again(source, tmp_path, monkeypatch):
    left = failing(monkeypatch, "copyfile", OSError(errno.EIO, "x"), OSError(errno.ESTALE, "x"))
    Target(str(tmp_path / "out")).put(source, "a.tar")
    assert not left
    assert os.listdir(tmp_path / "out") == ["a.tar"]
    assert (tmp_path / "out" / "a.tar").read_bytes() == DATA
    assert not source.exists()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_target_is_told_at_once_and_nothing_of_the_file_stays(
    source, tmp_path, monkeypatch, number
):
    left = failing(monkeypatch, "copyfile", OSError(number, "full"), OSError(number, "full"))
    with pytest.raises(FetchError, match=r"out/a\.tar: no room, .*; make room: the same command"):
        Target(str(tmp_path / "out")).put(source, "a.tar")
    assert len(left) == 1
    assert os.listdir(tmp_path / "out") == []
    assert source.read_bytes() == DATA


def test_partial_files_of_a_killed_build_are_removed(tmp_path):
    (tmp_path / ".shard-000000.tar.partial").write_bytes(DATA)
    (tmp_path / "mine.partial").write_bytes(DATA)
    Target(str(tmp_path)).remove_partials()
    assert os.listdir(tmp_path) == ["mine.partial"]


def test_a_mount_that_went_away_is_waited_for(source, tmp_path, monkeypatch):
    """And the disk below it is not written to meanwhile."""
    out = tmp_path / "out"
    kinds = ["fuse.drive"]
    monkeypatch.setattr(targets, "file_system", lambda path: kinds[0])

    def pause(seconds: float) -> None:
        assert not (out / "b.tar").exists()
        waited.append(seconds)
        kinds[0] = "fuse.drive" if len(waited) == 3 else "ext4"

    waited: list[float] = []
    target = Target(str(out), pause=pause)
    target.write("a", b"a")
    kinds[0] = "ext4"
    target.put(source, "b.tar")
    assert len(waited) == 3
    assert (out / "b.tar").read_bytes() == DATA


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    target = Target(str(tmp_path / "out"))
    target.write("a", b"a")
    (tmp_path / "out" / "a").unlink()
    (tmp_path / "out").rmdir()
    with pytest.raises(FetchError, match=r"cannot be reached, .*unmounted"):
        target.write("b", b"b")
    assert not (tmp_path / "out").exists()


def test_drive_has_to_be_mounted(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "DRIVE", tmp_path / "drive")
    target = Target(str(tmp_path / "drive" / "MyDrive" / "out"))
    assert target.on_disk
    with pytest.raises(FetchError, match=r"Drive is not mounted; run drive\.mount"):
        target.write("a", b"a")
    assert not (tmp_path / "drive").exists()


@pytest.mark.parametrize(
    ("kind", "below", "expected"),
    [
        ("ext4", False, False),
        ("nfs4", False, False),
        ("fuse", True, True),
        ("fuse.drive", False, True),
        ("fuse.google-drive-ocamlfuse", False, True),
    ],
)
def test_drive_is_known_by_its_place_or_file_system(tmp_path, monkeypatch, kind, below, expected):
    monkeypatch.setattr(targets, "DRIVE", tmp_path if below else tmp_path / "drive")
    monkeypatch.setattr(targets, "file_system", lambda path: kind)
    monkeypatch.setattr(targets, "is_local", lambda path: kind == "ext4")
    assert Target(str(tmp_path / "out")).on_drive is expected


def test_all_urls_of_a_folder_have_one_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("out")
    urls = ("out", "out/", f"{tmp_path}/out", f"file://{tmp_path}/out", "link", "x/../out")
    assert len({Target(url).identity for url in urls}) == 1
    assert Target("memory://out").identity != Target("out").identity


# --- other URLs


def upload(tmp_path: Path, source: Path) -> Callable[[], None]:
    return lambda: Target(f"fault://{tmp_path}/out").put(source, "a.tar")


def test_an_upload_that_fails_is_made_again(source, tmp_path, faults):
    faults.write_errors |= {0: errno.EIO, 1: errno.ENOTCONN}
    upload(tmp_path, source)()
    assert faults.written == ["a.tar"] * 3
    assert (tmp_path / "out" / "a.tar").read_bytes() == DATA
    assert not source.exists()


def test_an_upload_that_came_short_is_made_again(source, tmp_path, faults, monkeypatch):
    cut, put = [DATA[:100]], faults._write
    monkeypatch.setattr(
        faults, "_write", lambda self, path, data: put(self, path, cut.pop() if cut else data)
    )
    upload(tmp_path, source)()
    assert faults.written == ["a.tar"] * 2
    assert (tmp_path / "out" / "a.tar").read_bytes() == DATA


def test_denied_access_is_told_at_once(source, tmp_path, faults):
    faults.write_errors |= {0: errno.EACCES}
    with pytest.raises(FetchError, match="access denied"):
        upload(tmp_path, source)()
    assert faults.written == ["a.tar"]
    assert source.exists()


def test_a_file_is_read_back(tmp_path, faults):
    target = Target(f"fault://{tmp_path}/out")
    target.write("a.tar", DATA)
    assert target.sha256("a.tar") == sha256(DATA).hexdigest()
    assert not target.on_disk
    faults.spoil.add("a.tar")
    assert target.sha256("a.tar") != sha256(DATA).hexdigest()
