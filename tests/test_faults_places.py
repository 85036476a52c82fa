"""Clocks that jump, other locales, odd names: they work, or are refused with a reason."""

import json
import os
import random
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import corpus
import pytest
from web import serve

from loader import make_pipeline
from packer.__main__ import main as packer
from shards.tar import END_OF_ARCHIVE, sample_bytes

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 0.25, "batch_size": 5}


def keys_of(pipe) -> list[str]:
    return [key for batch in pipe for key in batch["__key__"]]


def test_a_clock_that_jumps_changes_nothing(dataset, tmp_path, monkeypatch):
    """Years back and forth, in the process and in the times of cached files."""
    dice, utime = random.Random(0), os.utime

    def jumping() -> float:
        return dice.choice((0.0, 1e9, 4e9))

    with make_pipeline(dataset, **SMALL) as pipe:
        expected = [keys_of(pipe), keys_of(pipe)]
    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    monkeypatch.setattr(os, "utime", lambda path, times=None: utime(path, (jumping(),) * 2))
    size = max(path.stat().st_size for path in dataset.glob("*.tar"))
    for cache in ("raw", "decoded"):
        options = {**SMALL, "cache_mount": True, "cache": cache, "cache_dir": tmp_path / cache}
        with make_pipeline(dataset, cache_bytes=20 * size, num_workers=1, **options) as pipe:
            assert [keys_of(pipe), keys_of(pipe)] == expected


LONG = "ä" * 117 + "x" * 10  # bytes: 244, and .wav, .tar.idx fit behind it
ODD = ["with space", "häßlich 漢字 🎹", "100% #1 ?a=b&c", 'it\'s "quoted"', "-dash", LONG]
ODD += ["back\\slash; comma, [brackets]"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_files_and_folders_work(tmp_path, name):
    root = tmp_path / name
    annotations = corpus.write_annotations(root, samples=5, seconds=0.25)
    lines = [json.loads(line) for line in annotations.read_text(encoding="utf-8").splitlines()]
    for kind, suffix in (("audio", ".wav"), ("midi", ".mid")):
        odd = f"{kind}/{name}{suffix}"
        (root / lines[0][f"{kind}_path"]).rename(root / odd)
        lines[0][f"{kind}_path"] = odd
    annotations.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = root / "out"
    assert packer(["build", str(annotations), "--out", str(out), "--sample-rate", "8000"]) == 0
    assert packer(["verify", str(out)]) == 0
    options = {**SMALL, "cache_mount": True, "cache_dir": root / "cache"}
    with make_pipeline(out, **options) as pipe:
        assert len(set(keys_of(pipe))) == 5
    assert len(list((root / "cache").glob("*/*.tar"))) == len(list(out.glob("*.tar")))


@pytest.mark.parametrize("name", [*ODD[:2], *ODD[3:6], "a" * 251])
@pytest.mark.parametrize("remote", [False, True])
def test_tars_of_odd_names_go_through_the_cache(tmp_path, name, remote):
    """Beside a cached tar lie files of longer names: its lock, its index, its part."""
    folder = tmp_path / "tars"
    folder.mkdir()
    members = {"json": b'{"labels": {"a": 1.5}}'}
    path = folder / f"{name}.tar"
    path.write_bytes(b"".join(sample_bytes(f"k{n}", members) for n in range(5)) + END_OF_ARCHIVE)
    with serve(folder) as web:
        shards = [f"{web.url}/{quote(path.name)}"] if remote else [str(path)]
        options = {"cache_mount": True, "cache_dir": tmp_path / "cache", "batch_size": 5}
        for _ in range(2):
            with make_pipeline(shards, shuffle=0, **options) as pipe:
                assert keys_of(pipe) == [f"k{n}" for n in range(5)]
    (cached,) = (tmp_path / "cache").glob("*/*.tar")  # or it was read where it lies
    assert cached.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", [r"folder\x.json", r"C:\data\x.json", "CON.json", "a:b.json"])
def test_names_of_windows_are_keys_and_no_paths(tmp_path, name):
    with make_pipeline(
        tar_with(tmp_path, name), batch_size=1, cache="off", fields=["json"]
    ) as pipe:
        assert keys_of(pipe) == [name.removesuffix(".json")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [(r"..\..\x.json", "there is no sample"), ("x.json ", "has no 'json'")],
)
def test_other_names_are_refused_with_a_reason(tmp_path, name, reason):
    with pytest.raises(ValueError, match=reason):
        make_pipeline(tar_with(tmp_path, name), batch_size=1, cache="off", fields=["json"])


def tar_with(folder: Path, name: str) -> Path:
    path, info = folder / "a.tar", tarfile.TarInfo(name)
    info.size = 2
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info, BytesIO(b"{}"))
    return path


PACK_AND_STREAM = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"(packer|loader|shards)[.]")
from packer.__main__ import main
from loader import make_pipeline
annotations, out, cache = sys.argv[1:]
assert main(["build", annotations, "--out", out, "--sample-rate", "8000", "--workers", "1"]) == 0
assert main(["verify", out]) == 0
with make_pipeline(out, cache_dir=cache, cache_mount=True, sample_rate=8000, clip_seconds=0.25,
                   batch_size=5, fields=["audio", "json"]) as pipe:
    print(ascii(sorted(record["piece"] for batch in pipe for record in batch["json"])))
"""


@pytest.mark.parametrize(
    ("folder", "environment"),
    [
        ("étude 漢字", {"LC_ALL": "C"}),
        ("plain", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ],
    ids=["C", "ASCII"],
)
def test_another_locale_changes_nothing(tmp_path, folder, environment):
    """Text is UTF-8 wherever it is read or written, whatever the system's default is."""
    root = tmp_path / folder
    annotations = corpus.write_annotations(root, samples=5, seconds=0.25)
    lines = [json.loads(line) for line in annotations.read_text(encoding="utf-8").splitlines()]
    lines = [line | {"piece": f"Ségnr {n} 漢"} for n, line in enumerate(lines)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    annotations.write_text(text, encoding="utf-8")
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "ignore::EncodingWarning"]
    command += ["-c", PACK_AND_STREAM, str(annotations), str(root / "out"), str(root / "c")]
    own = {**os.environ, **environment}
    done = subprocess.run(command, env=own, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-2000:]
    found = done.stdout.decode().strip().splitlines()[-1]
    assert found == ascii(sorted(line["piece"] for line in lines))


def test_no_decision_rests_on_the_wall_clock():
    """It jumps; what measures a time uses a clock that does not."""
    for package in ("loader", "packer", "shards"):
        for path in (Path(__file__).parent.parent / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "time.time(" not in text, path
            assert "datetime.now(" not in text, path
