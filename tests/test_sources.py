"""packer.copies, packer.ahead: sources on a mount are read once, and no byte tells of it."""

import json
import os
import shutil
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import corpus
import numpy as np
import pytest
import soundfile

from packer import copies as copying
from packer.ahead import encode_ahead
from packer.audio import AudioInfo
from packer.build import build
from packer.copies import Copies
from packer.encode import Job, Task
from packer.inspection import look_at_audio
from packer.options import Options
from packer.spread import spread
from shards.errors import AnnotationError
from shards.faults import FaultError, Kind

SAMPLES = 12
OPTIONS = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=50_000)
here = partial(spread, workers=0, progress=False)


@pytest.fixture(autouse=True)
def _everything_of_mount_is_on_one(monkeypatch):
    monkeypatch.setattr(copying, "is_local", lambda path: "mount" not in path.parts)
    monkeypatch.setattr(copying, "file_system", lambda path: "fuse.slow")
    copying._is_mount.cache_clear()
    yield
    copying._is_mount.cache_clear()


@pytest.fixture
def annotations(tmp_path) -> Path:
    return corpus.write_annotations(tmp_path / "mount", samples=SAMPLES)


@pytest.fixture
def opened(monkeypatch) -> Counter[str]:
    """How often each source is read on the mount, by name."""
    seen: Counter[str] = Counter()
    read_into = copying._read_into

    def read(copy: Path, path: Path) -> None:
        seen[path.name] += 1
        read_into(copy, path)

    monkeypatch.setattr(copying, "_read_into", read)
    return seen


def make(annotations: Path, out: Path, **arguments: object) -> dict[str, bytes]:
    arguments = {"workers": 0, "spool": out.parent / "spool"} | arguments
    build(annotations, str(out), options=OPTIONS, progress=False, **arguments)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def on_disk(annotations: Path, tmp_path: Path) -> Path:
    """The same corpus where it is read in place."""
    return Path(shutil.copytree(annotations.parent, tmp_path / "disk")) / annotations.name


def job(folder: Path, number: int) -> Job:
    audio, midi = (folder / f"{kind}/{number:04d}" for kind in ("audio", "midi"))
    sources = (audio.with_suffix(".wav"), midi.with_suffix(".mid"))
    task = Task(number, f"key-{number}", *sources, 0.0, 1.0, whole=True, record={})
    spool = folder.parent / f"{number}.blocks"
    return Job(spool, (task,), "flac", "flac", corpus.SAMPLE_RATE, 1, True, False)


def test_a_dataset_is_the_same_to_the_byte(annotations, tmp_path, opened):
    found = make(annotations, tmp_path / "out")
    assert len(opened) == 2 * SAMPLES, "what lies on the mount is copied"
    assert found == make(on_disk(annotations, tmp_path), tmp_path / "other")
    assert len(opened) == 2 * SAMPLES, "what lies on a disk is not"


def test_processes_encode_from_copies(annotations, tmp_path):
    """The sources go before anything is encoded: only the copies are left."""
    expected = make(on_disk(annotations, tmp_path), tmp_path / "other")
    plan = copying.Copies.at
    gone = threading.Event()

    def at(self: Copies, path: Path) -> Path:
        found = plan(self, path)
        if not gone.is_set() and len(self._copies) == 2 * SAMPLES:
            gone.set()
            shutil.rmtree(annotations.parent / "audio")
            shutil.rmtree(annotations.parent / "midi")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying.Copies, "at", at)
        found = make(annotations, tmp_path / "out", workers=2)
    assert gone.is_set()
    assert found == expected


def test_every_source_is_read_once(annotations, tmp_path, opened):
    make(annotations, tmp_path / "out")
    assert set(opened.values()) == {1}


def test_copies_are_gone_with_the_build(annotations, tmp_path):
    make(annotations, tmp_path / "out")
    assert not list((tmp_path / "spool").iterdir())


def test_copies_of_a_killed_build_are_removed_by_the_next(annotations, tmp_path):
    left, held = tmp_path / "spool/sources-left", tmp_path / "spool/sources-held"
    for folder in (left, held):
        folder.mkdir(parents=True)
        (folder / "0.wav").write_bytes(b"copy")
    with Copies(tmp_path / "spool", threads=1) as other:  # of a build that runs
        other.look(look_at_audio, annotations.parent / "audio/0000.wav")
        assert not left.exists()
        (used,) = (tmp_path / "spool").iterdir()
        make(annotations, tmp_path / "out")
        assert list((tmp_path / "spool").iterdir()) == [used]
        assert list(used.iterdir())


def test_what_is_kept_has_its_limit(annotations, tmp_path):
    sources = sorted((annotations.parent / "audio").iterdir())
    size = sources[0].stat().st_size
    with Copies(tmp_path, threads=1, kept_bytes=3 * size + 1) as copies:
        infos = [copies.look(look_at_audio, path) for path in sources]
        kept = [path for path in sources if copies.at(path) != path]
        assert kept == sources[:3]
        assert all(isinstance(info, AudioInfo) and info.bytes == size for info in infos)
        assert copies.lacking(sources) == dict.fromkeys(sources[3:], size)


def test_a_large_file_is_read_where_it_is(annotations, tmp_path, monkeypatch):
    path = annotations.parent / "audio/0000.wav"
    monkeypatch.setattr(copying, "WHOLE_BYTES", path.stat().st_size - 1)
    with Copies(tmp_path, threads=1) as copies:
        copies.look(look_at_audio, path)
        assert copies.at(path) == path
        assert not copies.lacking([path])


def test_sources_come_ahead_within_bounds_and_go_when_used(annotations, tmp_path):
    """Of parts of two jobs, those encoded and those that follow are there, and no more."""
    folder = annotations.parent
    jobs = [job(folder, number) for number in range(SAMPLES)]
    there: list[int] = []
    with Copies(tmp_path, threads=4, kept_bytes=0) as copies:
        for one in jobs:
            copies.look(look_at_audio, one.tasks[0].audio)
        size = sum(copies.lacking([one.tasks[0].audio for one in jobs[:2]]).values())

        def run(task, part):
            assert len(part) == 2
            assert all(one.copies for one in part), "all of it was copied before"
            there.append(len(copies._copies))
            return here(task, part)

        places = list(encode_ahead(jobs, copies, run, ahead_bytes=size))
        assert not copies._copies
    assert [found.index for (found,) in places] == list(range(SAMPLES))
    assert not any(found.reason for (found,) in places)
    assert max(there) <= 4


def test_a_source_that_several_jobs_need_is_copied_once(annotations, tmp_path, opened):
    jobs = [job(annotations.parent, number) for number in (0, 1, 0, 2, 0)]
    with Copies(tmp_path, threads=4, kept_bytes=0) as copies:
        for one in jobs:
            copies.look(look_at_audio, one.tasks[0].audio)
        assert len(list(encode_ahead(jobs, copies, here, ahead_bytes=1))) == 5
    assert opened == {"0000.wav": 1, "0001.wav": 1, "0002.wav": 1}


def test_a_fault_names_the_source_and_not_its_copy(annotations, tmp_path):
    path = annotations.parent / "audio/0003.wav"
    path.write_bytes(b"no sound")
    with Copies(tmp_path, threads=1) as copies, pytest.raises(FaultError) as caught:
        copies.look(look_at_audio, path)
    assert str(caught.value).startswith(f"{path}: not a readable recording")
    assert caught.value.kind == Kind.UNREADABLE_AUDIO
    with pytest.raises(AnnotationError, match=r"audio/0003\.wav: not a readable recording"):
        make(annotations, tmp_path / "out")


def test_what_encoding_finds_names_the_source_too(annotations, tmp_path):
    """A float that is not finite is met only by reading it."""
    path = annotations.parent / "audio/0003.wav"
    sound = np.full(corpus.SAMPLE_RATE, np.nan)
    soundfile.write(path, sound, corpus.SAMPLE_RATE, subtype="FLOAT")
    make(annotations, tmp_path / "out", max_rejected=0.5)
    (line,) = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"].startswith(f"{path}: holds samples that are not finite")


def test_a_missing_source_is_missing_and_one_that_cannot_be_copied_is_read_in_place(
    annotations, tmp_path, monkeypatch
):
    def full(copy: Path, path: Path) -> None:
        copy.write_bytes(b"in part")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(copying, "_read_into", full)
    found = make(annotations, tmp_path / "out")
    assert found == make(on_disk(annotations, tmp_path), tmp_path / "other")
    (annotations.parent / "audio/0000.wav").unlink()
    with pytest.raises(AnnotationError, match=r"0000\.wav: no such file"):
        make(annotations, tmp_path / "out", overwrite=True)
