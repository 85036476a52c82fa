"""packer.build: however a build ends, the same command goes on, and no byte tells of it."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import corpus
import pytest
from faultfs import FaultFileSystem

from packer import ahead as building
from packer import locks
from packer import spool as spools
from packer.build import build
from packer.builder import Builder
from packer.locks import locked
from packer.options import Options
from packer.spool import encode_into
from packer.target import Target
from shards import retry
from shards.errors import AnnotationError, FetchError

SAMPLES = 24
KILLS = int(os.environ.get("KILLS", "3"))
# some six groups of two shards each
OPTIONS = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=30_000, group_bytes=60_000)
ONE_GROUP = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=30_000)


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Path:
    return corpus.write_annotations(tmp_path_factory.mktemp("corpus"), samples=SAMPLES)


@pytest.fixture(scope="module")
def straight(annotations, tmp_path_factory) -> dict[str, bytes]:
    """What a build makes that nothing stops."""
    folder = tmp_path_factory.mktemp("straight")
    make(annotations, folder / "out", spool=folder / "spool")
    found = tree(folder / "out")
    assert sum(name.endswith(".tar") for name in found) >= 8
    return found


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """Keys of all samples that this process encodes from now on."""
    keys: list[str] = []

    def counting(job):
        keys.extend(task.key for task in job.tasks)
        return encode_into(job)

    monkeypatch.setattr(building, "encode_into", counting)
    return keys


def make(path: Path, out: Path | str, **options: object) -> None:
    options = {"workers": 0, "options": OPTIONS} | options
    build(path, str(out), progress=False, **options)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def states(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Inode and time of change of files."""
    found = {name: (folder / name).stat() for name in names}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in found.items()}


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    """The same of all shards of finished groups."""
    notes = [json.loads(path.read_bytes()) for path in folder.glob("build-group-*.json")]
    tars = [shard["info"]["url"] for note in notes for shard in note["shards"]]
    return states(folder, [*tars, *(f"{tar}.idx" for tar in tars)])


# the command line, but that each recording takes a moment, to be hit in
SLOW = """
import sys, time
from packer import ahead
from packer.__main__ import main
from packer.spool import encode_into
def slowly(job):
    time.sleep(0.02)
    return encode_into(job)
ahead.encode_into = slowly
sys.exit(main(sys.argv[1:]))
"""


def started(
    path: Path, out: Path, cache: Path, *, workers: int = 0, group: str = "60KB"
) -> subprocess.Popen[str]:
    """The command in a process of its own; its temporary files go beside the cache."""
    scratch = cache.with_name("scratch")
    scratch.mkdir(exist_ok=True)
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "TMPDIR": str(scratch)}
    program = ["-m", "packer"] if workers else ["-c", SLOW]
    shape = ["--shard-size", "30KB", "--shuffle-group", group, "--sample-rate", "8000"]
    command = [sys.executable, *program, "build", str(path), "--out", str(out), *shape]
    return subprocess.Popen(
        [*command, "--workers", str(workers)], env=environment, stderr=subprocess.PIPE, text=True
    )


def files(*folders: Path) -> int:
    return sum(1 for folder in folders for path in folder.rglob("*") if path.is_file())


def wait_for(process: subprocess.Popen[str], count: int, *folders: Path) -> None:
    """Until some folders hold so many files, or the process has ended."""
    while files(*folders) < count and process.poll() is None:
        time.sleep(0.002)


def interrupt(monkeypatch, *, after: int) -> None:
    """Let the next build be interrupted when it has encoded so many recordings."""
    left = [after]

    def interrupted(job):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return encode_into(job)

    monkeypatch.setattr(building, "encode_into", interrupted)


# --- killed


@pytest.mark.parametrize(("workers", "group_bytes"), [(0, 60_000), (2, 200_000)])
def test_killed_at_any_moment_it_goes_on(annotations, tmp_path, workers, group_bytes):
    """SIGKILL, again and again; KILLS says how often."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = replace(OPTIONS, group_bytes=group_bytes)
    rng = random.Random(workers)
    kept: dict[str, tuple[int, int]] = {}
    for _ in range(KILLS):
        group = f"{group_bytes}B"
        with started(annotations, out, cache, workers=workers, group=group) as process:
            wait_for(process, files(out, cache) + rng.randrange(1, 12), out, cache)
            time.sleep(rng.random() * 0.05)
            process.kill()
        assert states(out, kept) == kept
        kept |= inodes(out)
    make(annotations, out, options=options)
    assert states(out, kept) == kept
    assert not files(cache)
    make(annotations, tmp_path / "straight", options=options)
    assert tree(out) == tree(tmp_path / "straight")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(annotations, tmp_path, encoded, number):
    """And what was encoded of the unfinished group is not encoded again."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    with started(annotations, out, cache, group="8GB") as process:
        wait_for(process, 8, cache)
        process.send_signal(number)
        told = process.stderr.read()
    assert process.returncode == 130, told
    assert "run the same command again" in told
    assert "Traceback" not in told
    assert not files(tmp_path / "scratch")
    assert not list(cache.rglob("*.lock"))
    whole = len(list(cache.rglob("*.json")))
    assert 0 < whole < SAMPLES
    make(annotations, out, options=ONE_GROUP)
    assert len(encoded) == SAMPLES - whole
    make(annotations, tmp_path / "straight", options=ONE_GROUP)
    assert tree(out) == tree(tmp_path / "straight")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_recording_begun_is_a_recording_finished(annotations, tmp_path, monkeypatch, number):
    """An exception within what libsndfile calls back would be lost, and the sound be spoilt."""
    encode, calls = spools.encode_recording, []

    def signalled(job, spool):
        calls.append(job)
        os.kill(os.getpid(), number)
        return encode(job, spool)

    monkeypatch.setattr(spools, "encode_recording", signalled)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        make(annotations, tmp_path / "out")
    assert signal.getsignal(number) is before
    assert len(calls) == len(list((tmp_path / "cache").rglob("*.json"))) == 1


def test_workers_leave_no_trace(annotations, tmp_path):
    options = replace(OPTIONS, group_bytes=200_000)
    make(annotations, tmp_path / "none", options=options)
    for workers in (1, 2, 5):
        out = tmp_path / str(workers)
        make(annotations, out, options=options, workers=workers)
        assert tree(out) == tree(tmp_path / "none")


# --- the spool


@pytest.mark.parametrize("damage", ["cut", "flipped", "no note"])
def test_a_spooled_recording_counts_only_if_it_is_whole(
    annotations, tmp_path, monkeypatch, encoded, damage
):
    interrupt(monkeypatch, after=5)
    with pytest.raises(KeyboardInterrupt):
        make(annotations, tmp_path / "out", options=ONE_GROUP)
    spooled = sorted((tmp_path / "cache").rglob("*.blocks"))
    assert len(spooled) == 5
    data = spooled[0].read_bytes()
    if damage == "cut":
        spooled[0].write_bytes(data[:-512])
    elif damage == "flipped":
        spooled[0].write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    else:
        spooled[0].with_suffix(".json").unlink()
    monkeypatch.setattr(building, "encode_into", _counting(encoded))
    make(annotations, tmp_path / "out", options=ONE_GROUP)
    assert len(encoded) == SAMPLES - 4
    make(annotations, tmp_path / "straight", options=ONE_GROUP)
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")
    assert not files(tmp_path / "cache")


def _counting(keys: list[str]):
    def counting(job):
        keys.extend(task.key for task in job.tasks)
        return encode_into(job)

    return counting


def test_other_annotations_keep_of_a_spool_what_is_theirs(annotations, tmp_path, monkeypatch):
    """Lines were taken out: other recordings are not encoded again, and none of theirs is kept."""
    interrupt(monkeypatch, after=12)
    with pytest.raises(KeyboardInterrupt):
        make(annotations, tmp_path / "out", options=ONE_GROUP)
    fewer = annotations.with_name("fewer.jsonl")
    fewer.write_text("\n".join(annotations.read_text().splitlines()[:12]) + "\n")
    kept: list[int] = []

    def looking(job):
        kept.append(len(list(job.spool.parent.glob("*.blocks"))))
        return encode_into(job)

    monkeypatch.setattr(building, "encode_into", looking)
    make(fewer, tmp_path / "out", options=ONE_GROUP, overwrite=True)
    assert 0 < kept[0] < 12
    assert len(kept) == 12 - kept[0]
    make(fewer, tmp_path / "straight", options=ONE_GROUP)
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")


def test_a_spool_that_may_go_away_is_refused(annotations, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "is_local", lambda path: False)
    with pytest.raises(FetchError, match=r"lies on .*pass --spool"):
        make(annotations, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_room_is_looked_for_before_a_group_is_encoded(annotations, tmp_path, monkeypatch, encoded):
    class Usage:
        free = 5_000

    monkeypatch.setattr(spools.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(FetchError, match=r"MB are needed .*make room, or pass --spool"):
        make(annotations, tmp_path / "out")
    assert not encoded
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_disk_that_fills_up_is_named(annotations, tmp_path, monkeypatch, straight):
    def full(job):
        with spools.writing(job.spool.parent):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(building, "encode_into", full)
    with pytest.raises(FetchError, match=r"its disk is full; make room"):
        make(annotations, tmp_path / "out")
    monkeypatch.undo()
    make(annotations, tmp_path / "out", spool=tmp_path / "cache" / "packer-spool")
    assert tree(tmp_path / "out") == straight


# --- finished groups


@pytest.fixture
def begun(annotations, tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder in which some groups are finished, and some are not."""
    out = tmp_path / "out"
    interrupt(monkeypatch, after=17)
    with pytest.raises(KeyboardInterrupt):
        make(annotations, out)
    monkeypatch.setattr(building, "encode_into", encode_into)
    assert inodes(out)
    return out


def test_finished_groups_are_not_made_again(annotations, straight, begun, encoded):
    before = inodes(begun)
    notes = [json.loads(path.read_bytes()) for path in begun.glob("build-group-*.json")]
    finished = sum(len(note["durations"]) for note in notes)
    make(annotations, begun)
    assert tree(begun) == straight
    assert len(encoded) <= SAMPLES - finished
    assert states(begun, before) == before


@pytest.mark.parametrize(("local", "found"), [(True, False), (False, True)])
def test_on_a_mount_shards_are_trusted_only_after_they_were_read_back(
    annotations, straight, begun, monkeypatch, local, found
):
    """On a disk, a size is enough: nothing there changes bytes on its own."""
    name = min(name for name in inodes(begun) if name.endswith(".tar"))
    data = (begun / name).read_bytes()
    (begun / name).write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
    monkeypatch.setattr(Target, "on_disk", local)
    make(annotations, begun)
    assert (tree(begun) == straight) is found
    assert tree(begun).keys() == straight.keys()


def test_shards_of_an_unfinished_group_are_not_carried_again(annotations, straight, begun):
    notes = sorted(begun.glob("build-group-*.json"))
    before = inodes(begun)
    notes[-1].unlink()
    make(annotations, begun)
    assert tree(begun) == straight
    assert states(begun, before) == before


@pytest.mark.parametrize("note", ["", "{}", '{"shards": 1}'])
def test_a_torn_note_is_no_note(annotations, straight, begun, note):
    (begun / "build-group-00000.json").write_text(note)
    make(annotations, begun)
    assert tree(begun) == straight


# --- overwriting


def test_an_overwriting_build_goes_on_too(annotations, straight, begun, encoded):
    """The same command, with --overwrite, does not begin anew."""
    before = inodes(begun)
    make(annotations, begun, overwrite=True)
    assert tree(begun) == straight
    assert states(begun, before) == before


def test_overwriting_replaces_splits_by_a_dataset_and_back(annotations, straight, tmp_path):
    out, split = tmp_path / "out", Options(sample_rate=8000, split={"train": 2, "val": 1})
    make(annotations, out, options=split)
    (out / "train" / "mine.txt").write_text("mine")
    splits = tree(out)
    make(annotations, out, overwrite=True)
    assert tree(out) == straight | {"train/mine.txt": b"mine"}
    assert not (out / "val").exists()
    make(annotations, out, options=split, overwrite=True)
    assert tree(out) == splits


def test_overwriting_leaves_what_others_made(annotations, tmp_path):
    from shards.errors import ManifestError

    foreign = tmp_path / "out" / "train" / "manifest.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(json.dumps({"wids_version": 1, "name": "other", "shardlist": []}))
    with pytest.raises(ManifestError, match="a dataset of other splits"):
        make(annotations, tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out").keys() == {"train/manifest.json"}


# --- two at once


def test_a_second_build_into_a_target_is_refused(annotations, straight, tmp_path):
    out = tmp_path / "out"
    with locked(tmp_path / "a spool of its own", [Target(str(out)).identity]):
        for url in (str(out), f"file://{out}", f"{tmp_path}/./out"):
            with pytest.raises(FetchError, match="another build on this machine writes there"):
                make(annotations, url)
    assert not out.exists()
    make(annotations, out)
    assert tree(out) == straight


def test_splits_and_their_folder_are_locked_alike(annotations, tmp_path):
    split = Options(sample_rate=8000, split={"train": 2, "val": 1})
    with locked(spools.default_spool(), [Target(str(tmp_path / "out" / "val")).identity]):
        with pytest.raises(FetchError, match="another build"):
            make(annotations, tmp_path / "out", options=split)


def test_a_build_that_would_clear_away_what_is_written_below_it_is_refused(
    annotations, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "out"
    split = Options(sample_rate=8000, split={"train": 2, "val": 1})
    make(annotations, out, options=split)
    before = tree(out)
    with locked(spools.default_spool(), [Target(str(out / "val")).identity]):
        with pytest.raises(FetchError, match="another build"):
            make(annotations, out, overwrite=True)
        assert tree(out) == before
        with locked(spools.default_spool(), [Target(str(out / "train")).identity]):
            pass  # neighbours do not mind each other
        with pytest.raises(FetchError, match="another build"):  # one of both has ended
            make(annotations, out, overwrite=True)
    make(annotations, out, overwrite=True)
    assert not list(tmp_path.glob("packer-*/*"))


@pytest.mark.parametrize("fault", ["link", "mode", "owner"])
def test_locks_lie_in_a_folder_that_nobody_else_can_change(
    annotations, tmp_path, monkeypatch, fault
):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder = temporary / f"packer-{os.getuid()}"
    if fault == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif fault == "mode":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        user = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: user)
        folder = temporary / f"packer-{user}"
    told = {"link": "is a link", "mode": "has mode 0777", "owner": "belongs to the user"}[fault]
    with pytest.raises(FetchError, match=f"{folder}: {told}.*remove it, or set TMPDIR"):
        make(annotations, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what is left out


def _with_one_broken(path: Path, folder: Path) -> Path:
    """Annotations of which one recording breaks off, in the split that is made first."""
    broken = folder / "broken.wav"
    corpus.write_sound(broken, seconds=1.0, seed=999)
    import soundfile

    sound, rate = soundfile.read(broken)
    flac = folder / "broken.flac"
    soundfile.write(flac, sound, rate)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    line = {"audio_path": str(flac), "part": "a", "key": "broken"}
    lines = [json.loads(row) for row in path.read_text().splitlines()]
    rows = [one | {"part": "ab"[number % 2]} for number, one in enumerate(lines)]
    new = path.with_name("broken.jsonl")
    new.write_text("".join(json.dumps(row) + "\n" for row in [*rows, line]))
    return new


@pytest.mark.parametrize(
    "obstacle", ["keys.bin", "b/keys.bin", "b/manifest.json", "rejected.jsonl"]
)
def test_what_was_left_out_is_told_whole_after_a_restart(annotations, tmp_path, obstacle):
    """Also what the first split left out, if the build broke off in the second one."""
    path = _with_one_broken(annotations, tmp_path)
    splits = Options(sample_rate=8000, split={"a": 1, "b": 1}, group_by="part")
    options = {"options": splits if "/" in obstacle else ONE_GROUP, "max_rejected": 0.5}
    out = tmp_path / "out"
    (out / obstacle).mkdir(parents=True)
    with pytest.raises(OSError):  # noqa: PT011
        make(path, out, **options)
    (out / obstacle).rmdir()
    make(path, out, **options)
    make(path, tmp_path / "straight", **options)
    assert tree(out) == tree(tmp_path / "straight")
    rejections = (out / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in rejections] == [SAMPLES + 1]


def test_what_a_finished_dataset_leaves_out_by_now_is_told(annotations, tmp_path, caplog):
    """Lines that are bad since, beside what only its encoding found."""
    path = _with_one_broken(annotations, tmp_path)
    out, options = tmp_path / "out", {"options": ONE_GROUP, "max_rejected": 0.5}
    make(path, out, **options)
    before = states(out, [path.name for path in out.glob("*.tar*")])
    path.write_text(path.read_text() + '{"audio_path": 7}\n')
    caplog.clear()
    make(path, out, **options)
    found = [json.loads(row) for row in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["kind"]) for row in found] == [
        (SAMPLES + 1, "cannot be encoded"),
        (SAMPLES + 2, "no path"),
    ]
    assert f"2 of {SAMPLES + 2} left out" in caplog.text
    assert states(out, before) == before
    make(annotations, tmp_path / "mended", options=ONE_GROUP)
    (tmp_path / "mended" / "rejected.jsonl").write_text(json.dumps(found[1]) + "\n")
    make(annotations, tmp_path / "mended", options=ONE_GROUP)
    assert not (tmp_path / "mended" / "rejected.jsonl").exists()


def test_who_was_left_out_is_listed_once_after_an_end_behind_the_manifest(
    annotations, tmp_path, monkeypatch
):
    path = _with_one_broken(annotations, tmp_path)
    out, options = tmp_path / "out", {"options": ONE_GROUP, "max_rejected": 0.5}
    with monkeypatch.context() as patched:
        patched.setattr(Builder, "end", lambda self: _interrupt())
        with pytest.raises(KeyboardInterrupt):
            make(path, out, **options)
    make(path, out, **options)
    make(path, tmp_path / "straight", **options)
    assert tree(out) == tree(tmp_path / "straight")


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_what_could_not_be_encoded_is_tried_again(annotations, tmp_path, monkeypatch):
    """A mount may have failed, and not the recording."""
    encode = spools.encode_recording

    def failing(job, spool):
        return [replace(place, reason="as told") for place in encode(job, spool)]

    def ending(job, spool):
        if list((tmp_path / "cache").rglob("*.json")):
            raise KeyboardInterrupt
        return failing(job, spool)

    monkeypatch.setattr(spools, "encode_recording", failing)
    with pytest.raises(AnnotationError, match="as told"):
        make(annotations, tmp_path / "out", options=ONE_GROUP)
    assert tree(tmp_path / "out").keys() == {"rejected.jsonl"}
    monkeypatch.setattr(spools, "encode_recording", ending)
    with pytest.raises(KeyboardInterrupt):
        make(annotations, tmp_path / "out", options=ONE_GROUP)
    assert list((tmp_path / "cache").rglob("*.json"))
    monkeypatch.setattr(spools, "encode_recording", encode)
    make(annotations, tmp_path / "out", options=ONE_GROUP)
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


# --- trouble with the target


@pytest.fixture
def faults() -> Iterator[type[FaultFileSystem]]:
    FaultFileSystem.reset()
    yield FaultFileSystem
    FaultFileSystem.reset()


def test_writes_that_fail_now_and_then_do_not_show(annotations, straight, tmp_path, faults):
    """Every eighth, and once, for a while, all of them."""
    faults.write_errors |= dict.fromkeys(range(3, 200, 8), errno.EIO)
    faults.write_errors |= dict.fromkeys(range(12, 17), errno.ENOTCONN)
    make(annotations, f"fault://{tmp_path}/out")
    assert tree(tmp_path / "out") == straight
    assert len(faults.written) > len(straight) + 6


def test_a_target_that_stays_away_ends_the_build_and_the_same_goes_on(
    annotations, straight, tmp_path, monkeypatch, faults
):
    monkeypatch.setattr(retry, "PATIENCE_S", 0.02)
    faults.write_errors |= dict.fromkeys(range(9, 1000), errno.ENOTCONN)
    with pytest.raises(FetchError, match=r"cannot be reached, tried for .* the same command"):
        make(annotations, f"fault://{tmp_path}/out")
    assert len(tree(tmp_path / "out")) == 9
    faults.write_errors.clear()
    make(annotations, f"fault://{tmp_path}/out")
    assert tree(tmp_path / "out") == straight


def test_an_error_of_carrying_ends_the_encoding(annotations, tmp_path, monkeypatch, faults):
    """At the next recording, and not only when the group is encoded."""
    faults.write_errors |= dict.fromkeys(range(1, 1000), errno.EDQUOT)
    begun: list[bool] = []

    def slowly(job):
        begun.append(len(faults.written) > 1)
        time.sleep(0.05)
        return encode_into(job)

    monkeypatch.setattr(building, "encode_into", slowly)
    options = replace(OPTIONS, group_bytes=200_000)
    with pytest.raises(FetchError, match="its quota is used up"):
        make(annotations, f"fault://{tmp_path}/out", options=options)
    assert sum(begun) <= 1 < len(begun) < SAMPLES - 4


def test_no_worker_goes_on_for_an_error_that_is_kept(annotations, tmp_path, faults):
    faults.write_errors |= dict.fromkeys(range(1, 1000), errno.EDQUOT)
    options = replace(OPTIONS, group_bytes=200_000)
    with pytest.raises(FetchError, match="its quota is used up") as kept:
        make(annotations, f"fault://{tmp_path}/out", options=options, workers=2)
    assert kept.value is not None
    assert not multiprocessing.active_children()
