"""Benchmarks against peers: all deliver the same, all is counted, and nothing is hidden."""

import importlib
import json
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import tables
from benchmarks.clips import make_dataset
from benchmarks.drive import mount
from benchmarks.drive import report as drive_report
from benchmarks.peers import report as peers_report
from benchmarks.peers import turn
from benchmarks.peers.catalog import PEERS, REQUIREMENTS, ROWS
from benchmarks.peers.decoders import (
    Decode,
    by_soundfile,
    by_this_project,
    tokens_by_pretty_midi,
    tokens_by_symusic,
)
from benchmarks.peers.run import Run, TurnError, in_a_session, turn_name
from benchmarks.peers.setting import BATCH, DECODED, FLAC, OURS, USERS, Setting
from benchmarks.peers.source import read_clips

CLIPS = 18  # a batch, and two that are left out
PREPARED = turn_name("prepare", (FLAC, USERS), 0)


@pytest.fixture(scope="module")
def clips_dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("clips"), CLIPS)


@pytest.fixture(scope="module")
def clips(clips_dataset):
    return list(read_clips(clips_dataset))


@pytest.mark.parametrize("kind", [FLAC, DECODED])
@pytest.mark.parametrize("name", ["files", "webdataset", "wids", "clavier"])
def test_a_peer_delivers_what_is_due(clips_dataset, tmp_path, name, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers, about each other
        peer = importlib.import_module(f"benchmarks.peers.wiring.{name}")
        setting = Setting(tmp_path, clips_dataset, kind, OURS, workers=0)
        peer.prepare(read_clips(clips_dataset), tmp_path, kind)
        loader = peer.open_loader(setting)
        (batch,) = loader.epoch()
        turn._check(batch, setting)
        loader.close()
    assert len(set(batch["__key__"])) == BATCH


def test_a_batch_with_other_content_is_refused(clips_dataset, clips):
    samples = [Decode(OURS).files(c.key, c.flac, c.midi, c.record) for c in clips[:BATCH]]
    batch = {n: torch.stack([s[n] for s in samples]) for n in ("audio", "midi", "labels")}
    batch["__key__"] = [clip.key for clip in clips[1 : BATCH + 1]]  # one row off
    with pytest.raises(ValueError, match="other audio"):
        turn._check(batch, Setting(clips_dataset, clips_dataset, FLAC, OURS, 0))


def test_all_decoders_give_the_same_music(clips):
    for clip in clips[:4]:
        assert np.abs(by_soundfile(clip.flac) - by_this_project(clip.flac)).max() < 1 / 32768
        meta = {"midi_beat": 0.0}
        ours, users = (f(clip.midi, meta) for f in (tokens_by_symusic, tokens_by_pretty_midi))
        columns = [3, 5]  # pitch and velocity; times are rounded differently
        assert sorted(map(tuple, ours[:, columns])) == sorted(map(tuple, users[:, columns]))


def test_the_processes_of_a_session_are_counted_with_their_children(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, subprocess, sys, time\n"
        "from benchmarks.peers.meter import cpu_seconds\n"
        "held = b'x' * 60_000_000\n"
        "if len(sys.argv) == 1:\n"
        "    before = cpu_seconds(os.getsid(0))\n"
        "    subprocess.run([sys.executable, __file__, 'child'], check=True)\n"
        "    print(json.dumps({'cpu_s': cpu_seconds(os.getsid(0)) - before}))\n"
        "else:\n"
        "    time.sleep(0.8)\n"
        "    while time.process_time() < 0.3: pass\n"
    )
    found = in_a_session([sys.executable, str(program)])
    assert found["cpu_s"] >= 0.29  # in ticks of 10 ms
    assert found["peak_bytes"] > 120_000_000  # both at once


def test_a_turn_that_fails_tells_its_last_line():
    program = "import sys; print('at first', file=sys.stderr); raise OSError('no such peer')"
    with pytest.raises(TurnError, match="OSError: no such peer"):
        in_a_session([sys.executable, "-c", program])
    with pytest.raises(TurnError, match="no result within 1 s"):
        in_a_session([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=1)


def _run(found):
    return SimpleNamespace(
        rounds=3, results=lambda peer: found.get(peer.module, {}), workers=lambda peer, row: 2
    )


def _turns(row, rates, peak_bytes):
    prepared = {"bytes_a_sample": 1e6, "versions": {"x": "1"}, "resumes": "somehow"}
    figures = {"cpu_s": 0.001, "peak_bytes": peak_bytes, "first_s": 1.0}
    turns = {
        turn_name("measure", row, number): {"samples_per_s": rate} | figures
        for number, rate in enumerate(rates)
    }
    return {PREPARED: prepared, turn_name("probe", row, 0): {}, **turns}


def test_a_report_has_medians_and_says_who_is_ahead():
    row = ROWS[0]
    found = {
        "clavier": _turns(row, [90, 100, 900], 1e8),
        "files": _turns(row, [50, 40, 10], 5e7),
        "wids": {PREPARED: {"error": "ImportError: it"}},
    }
    report = peers_report.report(_run(found), list(PEERS), machine={"versions": {}}, command="")
    text, title = tables.markdown(report), peers_report.TITLES[row]
    assert "| **this project** | 2 | 100 |" in text
    assert "| files, torch Dataset | 2 | 40 |" in text
    assert "| wids |  | ImportError: it |" in text
    assert report["ratios"][f"{title}: samples/s"] == 2.5
    assert f"Ahead of this project: files, torch Dataset ({title}: peak MB, 2.00 times)" in text


def test_every_peer_has_a_module_and_a_venv():
    for peer in PEERS:
        assert importlib.util.find_spec(f"benchmarks.peers.wiring.{peer.module}") is not None
        assert not peer.venv or peer.venv in REQUIREMENTS


def test_the_users_table_compares_with_this_project():
    def result(first, *epochs):
        return {"experiments": [{"first_s": first, "epochs_s": list(epochs)}] * 3}

    found = {
        "file by file": result(5.0, 100.0, 100.0),
        "litdata": result(4.0, 20.0, 5.0),
        "webdataset with its cache": {"error": "OSError: [Errno 5]"},
        "this project, raw": result(2.0, 12.5, 2.5),
    }
    rows = [drive_report._row(name, own) for name, own in found.items()]
    assert rows[2] == {"way": "webdataset with its cache", "error": "OSError: [Errno 5]"}
    ratios = drive_report._ratios(rows, link_s=10.0)
    assert ratios["first epoch: the link / this project, raw"] == 0.8
    assert ratios["second epoch: file by file / this project, raw"] == 40
    assert ratios["all experiments: file by file / this project, raw"] == 13.333
    assert ratios["first batch: the first of those with a cache / this project, raw"] == 2


def test_the_stand_in_for_fuse_gives_the_same_bytes_and_waits(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(mount.time, "sleep", waited.append)
    content = bytes(range(256)) * 1000
    (tmp_path / "a.bin").write_bytes(content)
    files = mount.SlowFileSystem()
    assert files.cat_file(str(tmp_path / "a.bin"), 10, 20) == content[10:20]
    with files.open(str(tmp_path / "a.bin"), "rb") as file:
        assert file.read() == content
    assert waited.count(mount.LATENCY_S) >= 2
    assert len(content) / mount.BYTES_PER_S in waited


@pytest.mark.parametrize(("code", "seconds", "kept"), [("a", 1.0, 1), ("b", 1.0, 0), ("a", 2.0, 0)])
def test_turns_of_another_code_or_length_are_measured_again(tmp_path, code, seconds, kept):
    peer = PEERS[0]
    path = tmp_path / "turns" / f"{peer.module}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"seconds": 1.0, "code": "a", PREPARED: {"s": 3.0}}))
    run = Run(tmp_path, tmp_path, tmp_path / "dataset", rounds=1, seconds=seconds, code=code)
    assert len(run.results(peer).keys() & {PREPARED}) == kept
