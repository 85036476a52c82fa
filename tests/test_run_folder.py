"""trainer.folder: a run takes from a folder its own, and writes to a mount that is there."""

import errno
import fcntl
import io
import json
from pathlib import Path

import pytest
import yaml
from runs import arguments, make_splits

from shards import retry
from trainer import destination, folder
from trainer.__main__ import main
from trainer.carry import Carrier
from trainer.destination import Destination
from trainer.folder import RunFolder

CONFIG = {"mode": "midi", "data": {}, "model": {}, "trainer": {}}
OTHERS = ("thesis.txt", "logs/of-mine.txt", "checkpoints/mine.ckpt", "keep/run.json")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is not resumable"),
]


def put(path: Path, *names: str) -> None:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("")


def files(path: Path) -> set[str]:
    return {one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file()}


@pytest.fixture(params=["local", "far"])
def out(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(folder, "is_far", lambda given: request.param == "far")
    monkeypatch.setenv("SHARD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_folder_that_holds_no_run_is_not_cleared(out):
    put(out, *OTHERS)
    (out / "config.yaml").write_text(yaml.safe_dump({"somebody": "else"}))
    with pytest.raises(ValueError, match="and no run"):
        RunFolder(str(out)).require_run()


@pytest.mark.parametrize("mark", ["run.json", "config.yaml"])
def test_a_run_is_cleared_and_what_lies_beside_it_stays(out, mark):
    put(out, *OTHERS, "metrics.json", "report.html", "checkpoints/last.ckpt", "keys.jsonl")
    put(out, "checkpoints/best.ckpt", "logs/events.out.tfevents.1.host", "logs/hparams.yaml")
    found = {"id": "a", "batches": 1} if mark == "run.json" else CONFIG
    (out / mark).write_text(json.dumps(found))
    run = RunFolder(str(out))
    run.require_run()
    run.clear()
    assert files(out) == set(OTHERS)


def test_an_empty_folder_or_none_may_be_begun_in(out):
    RunFolder(str(out)).require_run()
    RunFolder(str(out / "none")).require_run()


def test_a_fit_leaves_nothing_that_it_would_not_clear(tmp_path):
    shards, out = make_splits(tmp_path / "data", samples=20), tmp_path / "run"
    given = arguments(shards, out, trainer__max_epochs=1, trainer__logger="true")
    assert main(given) == 0
    assert {"report.html", "logs/hparams.yaml", "metrics.json"} <= files(out)
    put(out, ".metrics.json.12-34.draft", "checkpoints/.last.ckpt.draft")
    RunFolder(str(out)).clear()
    assert files(out) == {".lock"}


def test_fresh_is_refused_where_it_would_wipe_a_folder(tmp_path, capsys):
    shards, out = make_splits(tmp_path / "data", samples=20), tmp_path / "mine"
    put(out, *OTHERS)
    assert main([*arguments(shards, out), "--fresh"]) == 1
    assert "--fresh" in capsys.readouterr().err
    assert files(out) == set(OTHERS)


# --- what cannot be reached, or locked


@pytest.mark.parametrize("action", [RunFolder.open, RunFolder.require_run, RunFolder.clear])
def test_a_destination_that_cannot_be_reached_is_told_in_a_line(tmp_path, monkeypatch, action):
    def unreachable(self: Destination, *arguments: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    for name in ("read", "names", "sizes"):
        monkeypatch.setattr(Destination, name, unreachable)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    with pytest.raises(ValueError, match=r"out: memory://bucket/run: .*Connection refused"):
        action(RunFolder("memory://bucket/run", cache_dir=str(tmp_path)))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_where_there_are_no_locks_a_fit_runs_and_says_so(tmp_path, monkeypatch, caplog, number):
    def unknown(*arguments: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with RunFolder(str(tmp_path / "run")).occupied():
        assert "no locks on this file system" in caplog.text


def test_another_fit_in_the_same_folder_is_refused(tmp_path):
    run = RunFolder(str(tmp_path / "run"))
    with run.occupied(), pytest.raises(ValueError, match="another fit"), run.occupied():
        pass


# --- a mount that goes away


@pytest.fixture
def mounted(monkeypatch) -> dict[Path, bool]:
    """Folders that count as mounts while they are true."""
    mounts: dict[Path, bool] = {}

    def is_local(path: Path) -> bool:
        return not any(there and path.is_relative_to(mount) for mount, there in mounts.items())

    monkeypatch.setattr(destination, "is_local", is_local)
    return mounts


def test_nothing_is_done_on_the_disk_below_a_mount_that_went_away(tmp_path, mounted):
    mounted[tmp_path / "drive"] = True
    out = tmp_path / "drive" / "MyDrive" / "run"
    target = Destination(str(out))
    target.put(io.BytesIO(b"{}"), 2, "run.json")
    assert target.read("run.json") == b"{}"
    mounted[tmp_path / "drive"] = False
    actions = (
        lambda: target.put(io.BytesIO(b"1"), 1, "checkpoints/last.ckpt"),
        lambda: target.read("run.json"),
        lambda: target.rename("run.json", "other.json"),
        lambda: target.fetch("run.json", tmp_path / "fetched"),
        lambda: target.remove(["run.json"]),
        target.names,
        target.sizes,
    )
    for action in actions:
        with pytest.raises(OSError, match="not mounted") as raised:
            action()
        assert raised.value.errno == errno.ENODEV
    assert files(out) == {"run.json"}


def test_a_file_counts_as_carried_only_if_the_mount_is_still_there(tmp_path, mounted, monkeypatch):
    mounted[tmp_path / "drive"] = True
    target = Destination(str(tmp_path / "drive" / "run"))
    copy = destination._copy

    def unmounting(*arguments) -> None:
        mounted[tmp_path / "drive"] = False
        copy(*arguments)

    monkeypatch.setattr(destination, "_copy", unmounting)
    put(tmp_path / "here", "run.json")
    carrier = Carrier(tmp_path / "here", target, first_pause_s=0.01)
    assert not carrier.close(patience_s=0.3)
    monkeypatch.undo()
