"""python -m loader doctor: what is wrong with a machine, and the command that mends it."""

import json
import math
import os
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from loader import doctor, places
from loader.__main__ import main
from loader.backends import Backend
from loader.codecs import judge_codecs, make_clip
from loader.disk import DiskRate, ReadRate, sample_reads
from loader.finding import Finding, survive
from loader.machine import (
    cpu_quota,
    judge_cores,
    judge_memory,
    judge_no_gpu,
    judge_open_files,
    judge_shared_memory,
    memory_limit,
)
from loader.packages import judge_backend, judge_package, required
from loader.places import find_files, judge_cache, judge_disk, judge_reads
from shards.errors import DecodeError

GB = 10**9


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_check_of_this_machine_and_a_dataset_comes_as_json(dataset, capsys):
    main(["doctor", str(dataset), "--json"])
    found = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {"torchaudio", "torchvision", "cores", "memory", "/dev/shm", "cache"} <= set(found)
    assert {"FLAC by this loader", "FLAC by miniaudio", "FLAC by soundfile"} <= set(found)
    assert "clips a second" in found["FLAC by soundfile"]["text"]
    assert "ms to open a file" in found[str(dataset)]["text"]


def test_the_exit_status_is_1_on_a_failure_alone(monkeypatch, capsys):
    findings = [Finding("ok", "a", "fine"), Finding("warn", "b", "odd", "mend b")]
    monkeypatch.setattr(doctor, "examine", lambda paths: iter(findings))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "-> mend b" in out
    assert "0 to mend, 1 to know of" in out
    findings.append(Finding("fail", "c", "broken"))
    assert main(["doctor"]) == 1


def test_a_check_that_breaks_off_is_a_finding_and_the_others_go_on(monkeypatch, capsys):
    def break_off():
        yield Finding("ok", "cores", "2")
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(doctor, "check_machine", break_off)
    monkeypatch.setattr(doctor, "_check_packages", list)
    monkeypatch.setattr(doctor, "_check_codecs", list)
    assert main(["doctor", "--json"]) == 1
    found = [(f["subject"], f["state"]) for f in json.loads(capsys.readouterr().out)]
    assert found[:2] == [("cores", "ok"), ("machine", "fail")]
    assert "cache" in dict(found)


def test_a_check_that_hangs_is_left_behind():
    over = threading.Event()

    def hang():
        yield Finding("ok", "mount", "is there")
        over.wait(60)

    found = survive("mount", hang, patience_s=0.05)
    over.set()
    assert [finding.state for finding in found] == ["ok", "fail"]
    assert "does not answer" in found[1].text


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        (
            "4:memory:/\n1:cpu:/job/7\n0::/",
            {"cpu/job/cpu.cfs_quota_us": "400000", "cpu/job/cpu.cfs_period_us": "100000"},
            4.0,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/../elsewhere", {"cpu.max": "300000 100000"}, 3.0),
    ],
)
def test_the_quota_is_the_lowest_of_all_groups_around_a_process(tmp_path, membership, files, quota):
    assert cpu_quota(membership, write_tree(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/a", {"a/memory.max": "max", "memory.max": "4000000000"}, 4 * GB),
        ("0::/a", {"a/memory.max": "max"}, None),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "2000000000"}, 2 * GB),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_the_memory_limit_is_the_lowest_too(tmp_path, membership, files, limit):
    assert memory_limit(membership, write_tree(tmp_path, files)) == limit


def test_cores_that_are_there_but_not_for_us_are_told():
    assert judge_cores(8, 8, None) == Finding("ok", "cores", "8")
    assert judge_cores(4, 64, None).text == "4 of the machine's 64"
    throttled = judge_cores(8, 8, 1.0)
    assert (throttled.state, "docker run --cpus" in throttled.remedy) == ("warn", True)
    assert "1 at a time" in throttled.text


def test_memory_is_judged_by_the_group_and_by_the_machine():
    meminfo = f"MemTotal: {64 * 10**6} kB\nMemFree: 1 kB\nMemAvailable: {32 * 10**6} kB"
    assert judge_memory(meminfo, None).state == "ok"
    limited = judge_memory(meminfo, GB)
    assert (limited.state, "limited to 1.0 GB" in limited.text) == ("warn", True)
    assert limited.remedy
    assert judge_memory("", None).state == "warn"


def test_too_few_open_files_and_too_little_shared_memory_have_a_remedy():
    assert judge_shared_memory(64 * 10**6).remedy == "docker run --shm-size=8g ..."
    assert judge_shared_memory(8 * GB).state == "ok"
    assert judge_open_files(256, 4096).remedy == "ulimit -n 4096"
    assert judge_open_files(1024, 4096).state == judge_open_files(-1, -1).state == "ok"


def test_a_driver_that_pytorch_cannot_use_is_a_failure_and_no_gpu_is_none():
    assert judge_no_gpu("2.9.0+cpu", "", cuda_build=False).state == "ok"
    built_without = judge_no_gpu("2.9.0+cpu", "NVRM version: 550", cuda_build=False)
    assert (built_without.state, "install" in built_without.remedy) == ("fail", True)
    too_old = judge_no_gpu("2.9.0+cu130", "NVRM version: 470", cuda_build=True)
    assert (too_old.state, "nvidia-smi" in too_old.remedy) == ("fail", True)


@pytest.mark.parametrize(
    ("line", "found", "state", "remedy"),
    [
        ("symusic!=0.6.0,>=0.5.8", "0.5.9", "ok", ""),
        ("symusic!=0.6.0,>=0.5.8", "0.6.0", "fail", "pip install 'symusic!=0.6.0,>=0.5.8'"),
        ("torch>=2.2", "2.13.0+cpu", "ok", ""),
        ("pyyaml", "6.0", "ok", ""),  # its module has another name
        ("fsspec[http]", None, "fail", "pip install 'fsspec[http]'"),
        ("no-such-package", "1.0", "fail", "pip install --force-reinstall no-such-package"),
    ],
)
def test_packages_are_compared_with_what_the_project_asks_for(line, found, state, remedy):
    finding = judge_package(Requirement(line), found)
    assert (finding.state, finding.remedy) == (state, remedy)


def test_what_is_asked_for_includes_extras_and_leaves_out_others(monkeypatch):
    asked = {
        "project": ["fsspec[http]", 'pytest; extra == "test"', 'winapi; sys_platform == "win32"'],
        "fsspec": ['aiohttp; extra == "http"', 's3fs; extra == "s3"'],
    }
    monkeypatch.setattr(metadata, "requires", asked.get)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    assert [wanted.name for wanted in required("project")] == ["fsspec", "aiohttp"]


def test_an_optional_package_is_worth_a_warning_only_where_it_is_broken():
    absent = Backend("torchvision", None, works=False, reason="not installed", remedy="pip ...")
    broken = Backend(
        "torchvision", "0.29", works=False, reason="torchvision::nms", remedy="pip ..."
    )
    good = Backend("torchcodec", "0.12", works=True, reason="", remedy="")
    assert judge_backend(absent) == Finding("ok", "torchvision", "not installed")
    assert judge_backend(good) == Finding("ok", "torchcodec", "0.12")
    finding = judge_backend(broken)
    assert (finding.state, finding.remedy) == ("warn", "pip ...")
    assert "torchvision::nms" in finding.text


def test_a_decoder_that_errs_or_fails_is_named(monkeypatch):
    monkeypatch.setattr("loader.codecs._MEASURED_S", 0.0)

    def fail(clip):
        raise DecodeError("out of order")

    sound = np.linspace(-0.5, 0.5, 100, dtype=np.float32)
    rounded = sound + np.float32(0.4 / 32768)
    found = judge_codecs(
        b"",
        {
            "soundfile": lambda clip: sound,
            "rounding": lambda clip: rounded,
            "louder": lambda clip: sound + np.float32(1 / 32768),
            "shorter": lambda clip: sound[:-1],
            "broken": fail,
        },
    )
    states = {finding.subject: finding.state for finding in found}
    assert list(states.values()) == ["ok", "ok", "fail", "fail", "fail"]
    assert "FLAC by louder" in states


def test_the_clip_is_about_as_large_as_a_recording_of_a_piano():
    assert 80_000 < len(make_clip()) < 200_000


def test_a_cache_has_to_be_local_roomy_and_fast(tmp_path, monkeypatch):
    assert judge_cache(tmp_path, "ext4", free_bytes=500 * GB, total_bytes=900 * GB).state == "ok"
    assert judge_cache(tmp_path, "ext4", free_bytes=80 * GB, total_bytes=900 * GB).state == "warn"
    assert judge_disk(DiskRate(write=500e6, read=900e6)).state == "ok"
    slow = judge_disk(DiskRate(write=500e6, read=9e6))
    assert (slow.state, "SHARD_CACHE_DIR" in slow.remedy) == ("warn", True)
    monkeypatch.setattr(places, "is_local", lambda path: False)
    remote = judge_cache(tmp_path, "nfs4", free_bytes=500 * GB, total_bytes=900 * GB)
    assert (remote.state, "nfs4" in remote.text) == ("fail", True)
    assert "SHARD_CACHE_DIR" in remote.remedy


def test_a_slow_mount_is_to_be_staged():
    fast = ReadRate(latency_s=0.001, bytes_per_s=200e6)
    drive = ReadRate(latency_s=0.12, bytes_per_s=2e6)
    assert judge_reads(Path("/data"), "ext4", fast, local=True).state == "ok"
    finding = judge_reads(Path("/drive"), "fuse.drive", drive, local=False)
    assert finding.state == "warn"
    assert "on fuse.drive, 120.0 ms to open a file, reads 2.0 MB/s" in finding.text
    assert finding.remedy == "python -m loader stage /drive --cache-dir DIR"
    unknown = ReadRate(latency_s=0.001, bytes_per_s=math.nan)
    assert judge_reads(Path("/tiny"), "ext4", unknown, local=True).state == "ok"


def test_a_few_files_are_found_without_listing_a_folder_whole(tmp_path):
    write_tree(tmp_path, {f"train/{n:03}.tar": "x" for n in range(200)})
    write_tree(tmp_path, {"a/b/c/too-deep.tar": "x"})
    found = list(find_files(tmp_path))
    assert 0 < len(found) < 200
    assert all(path.suffix == ".tar" and path.parent.name == "train" for path in found)


def test_reading_stops_at_the_limit(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2 << 20))
    rate = sample_reads([path, path])
    assert rate.latency_s > 0
    assert rate.bytes_per_s > 0
    assert math.isnan(sample_reads([path], limit_bytes=0).bytes_per_s)
    assert math.isnan(sample_reads([path], limit_s=0.0).bytes_per_s)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [("/content/drive/MyDrive/nothing-here", "drive.mount"), ("/nothing/here", "ls /nothing")],
)
def test_a_path_that_is_not_there_is_a_failure_with_a_remedy(path, remedy):
    [finding] = places.check_path(Path(path))
    assert finding.state == "fail"
    assert remedy in finding.remedy


def test_a_drive_that_is_not_mounted_is_told_on_colab_alone(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert not list(places.check_drive())
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    [finding] = places.check_drive()
    assert (finding.state, "drive.mount" in finding.remedy) == ("warn", True)


def test_a_url_is_sent_to_the_benchmark(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "gs://bucket/train"])
    assert caught.value.code == 2
    assert "loader bench gs://bucket/train" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["stage"], ["bench"], ["doctor"]])
def test_every_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "examples:\n  python -m loader" in capsys.readouterr().out


def test_help_shows_defaults_but_not_those_that_say_nothing(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: 2.0)" in shown
    assert "(default: 0.0)" in shown
    assert "(default: None)" not in shown
    assert "(default: False)" not in shown
