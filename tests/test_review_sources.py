"""What becomes of sources and disks that fail for a moment, of silent windows, and of counts."""

import errno
import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus import SAMPLE_RATE, write_annotations, write_sound

from packer import patience
from packer.audio import write_audio
from packer.build import build
from packer.intake import Intake
from packer.options import Options
from packer.report import Report
from packer.samples import read_samples
from shards import retry
from shards.errors import AnnotationError, FetchError
from shards.faults import Rejection
from shards.schema import Rules

OPTIONS = Options(sample_rate=SAMPLE_RATE)


def annotate(folder: Path, lines: list[dict[str, object]]) -> Path:
    path = folder / "annotations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def pack(annotations: Path, out: Path, **choices: object):
    """The manifest of a dataset, made in this process."""
    (built,) = build(annotations, str(out), options=OPTIONS, workers=0, progress=False, **choices)
    return built.manifest


# --- keys


def test_whole_recordings_of_one_cleaned_name_keep_keys_of_their_own(tmp_path):
    for seed, name in enumerate(("a b", "a-b", "x-y")):
        write_sound(tmp_path / f"{name}.wav", seconds=1, seed=seed)
    write_sound(tmp_path / "z.wav", seconds=1, seed=9)
    lines = [{"audio_path": f"{name}.wav"} for name in ("a b", "a-b", "x-y")]
    path = annotate(tmp_path, [*lines, {"audio_path": "z.wav", "key": "x-y"}])
    pack(path, tmp_path / "out", intake=Intake(whole=True))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)) == 8


# --- a disk that is full for a moment


class FullOnce(BytesIO):
    """A file of which one write fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number

    def write(self, data) -> int:
        self._left -= 1
        if not self._left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("codec", ["flac", "wav", "ogg", "mp3"])
@pytest.mark.parametrize("number", [1, 3])
def test_no_write_of_an_encoder_is_lost(codec, number):
    noise = np.random.default_rng(0).integers(-3000, 3000, (200_000, 1), dtype=np.int16)
    with pytest.raises(OSError, match="No space left") as raised:
        write_audio(FullOnce(number), [noise], codec=codec, sample_rate=24000)
    assert raised.value.errno == errno.ENOSPC


# --- a mount that is away


def break_reads(monkeypatch, broken) -> list[int]:
    """Let reads of sources fail by their number, counted from 0; the numbers of those that did."""
    real, numbers, failed = retry.retry, iter(range(1 << 30)), []

    def breaking(read, **choices):
        def attempt():
            number = next(numbers)
            if broken(number):
                failed.append(number)
                raise OSError(errno.EIO, "Input/output error")
            return read()

        return real(attempt, **choices)

    monkeypatch.setattr(patience, "retry", breaking)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.0)
    return failed


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_reads_that_fail_in_passing_leave_no_trace(tmp_path, monkeypatch):
    path = write_annotations(tmp_path, samples=3)
    pack(path, tmp_path / "whole")
    failed = break_reads(monkeypatch, lambda number: number % 2 == 0)
    assert pack(path, tmp_path / "broken").samples == 3
    assert len(failed) > 15  # of headers, MIDI and audio
    assert tree(tmp_path / "whole") == tree(tmp_path / "broken")


def test_whichever_read_fails_for_good_the_build_ends_and_rejects_nothing(tmp_path, monkeypatch):
    path = write_annotations(tmp_path, samples=1)
    monkeypatch.setattr(retry, "PATIENCE_S", -1.0)
    for number in range(100):
        with monkeypatch.context() as patch:
            failed = break_reads(patch, lambda read, number=number: read == number)
            try:
                manifest = pack(path, tmp_path / "out", max_rejected=1.0)
            except FetchError:
                continue
        break
    assert not failed
    assert number > 10
    assert manifest.samples == 1


# --- windows


def half_silent(folder: Path) -> Path:
    sound = np.zeros(4 * SAMPLE_RATE)
    sound[:SAMPLE_RATE] = 0.1
    soundfile.write(folder / "a.wav", sound, SAMPLE_RATE)
    return annotate(folder, [{"audio_path": "a.wav"}])


def test_windows_may_be_silent(tmp_path):
    manifest = pack(half_silent(tmp_path), tmp_path / "out", intake=Intake(segment_s=1.0))
    assert manifest.samples == 4


def test_what_is_left_out_is_counted_in_lines_whatever_is_cut_of_them(tmp_path):
    write_sound(tmp_path / "a.wav", seconds=20)
    path = annotate(tmp_path, [{"audio_path": "a.wav"}, {"audio_path": "b.wav"}])
    intake = Intake(segment_s=1.0)
    rules = Rules(root=tmp_path)
    assert read_samples(path, rules, options=OPTIONS, intake=intake, progress=False).total == 2
    with pytest.raises(AnnotationError, match="1 of 2 annotations cannot be packed"):
        pack(path, tmp_path / "out", intake=intake, max_rejected=0.1)


def test_lines_are_counted_once():
    windows = [Rejection(line, "silent", None) for line in (3, 3, 3, 4)]
    assert Report(Path("x"), 4, 0.5, windows).left_out == 2
    Report(Path("x"), 4, 0.5, windows).check()


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_share_allows_as_many_as_it_says(percent):
    def report(count: int) -> Report:
        lines = [Rejection(line, "x", None) for line in range(count)]
        return Report(Path("x"), 100, percent / 100, lines)

    report(percent).check()
    with pytest.raises(AnnotationError):
        report(percent + 1).check()
