"""What the benchmarks compute out of what they measure, and what they keep of earlier runs."""

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/ or benchmarks/scale/."""
    for folder in ("benchmarks", "benchmarks/scale"):
        monkeypatch.syspath_prepend(ROOT / folder)
    return importlib.import_module


def report(**rounds: list[float]) -> dict:
    machine = {"date": "2026-01-01", "commit": "abc", "cores": 2, "processor": "any"}
    ratios = {name: sorted(values)[len(values) // 2] for name, values in rounds.items()}
    return {"machine": machine, "by_round": rounds, "ratios": ratios}


@pytest.mark.parametrize(
    ("before", "now", "moved"),
    [
        ([2.0, 2.1, 1.9], [3.0, 3.1, 2.9], True),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], True),
        ([2.0, 2.1, 1.9], [2.1, 2.2, 2.0], False),  # within the noise of the rounds
        ([2.0, 3.5, 0.5], [3.0, 3.1, 2.9], False),  # the record was noisy
        ([2.0, 2.0, 2.0], [2.06, 2.06, 2.06], False),  # too little to speak of
    ],
)
def test_a_ratio_has_moved_when_it_left_the_noise(benchmark, before, now, moved):
    assert benchmark("quick").Change("any", before, now).moved is moved


def test_the_comparison_tells_what_moved_what_is_new_and_what_is_gone(benchmark):
    before = report(fast=[2.0, 2.0, 2.1], same=[1.0, 1.0, 1.0], old=[1.0])
    text = benchmark("quick").compared(
        report(fast=[1.0, 1.0, 1.1], same=[1.0, 1.0, 1.0], young=[3.0]), before
    )
    assert "MOVED  fast: 2 -> 1 (-50%, noise 10%)" in text
    assert "MOVED  same" not in text
    assert "new    young: 3" in text
    assert "gone   old" in text
    assert "1 of 2 ratios moved" in text


def test_without_a_record_the_comparison_says_how_to_make_one(benchmark):
    assert "make bench-record" in benchmark("quick").compared(report(any=[1.0]), None)


def test_the_record_is_one_of_the_quick_form():
    recorded = json.loads((ROOT / "benchmarks/results/quick.json").read_text())
    assert recorded["by_round"]
    assert recorded["ratios"].keys() == recorded["by_round"].keys()
    assert {"commit", "processor", "date"} <= recorded["machine"].keys()


def test_threads_of_the_model_share_one_lock(benchmark):
    rate = benchmark("threads").rate
    assert rate(1, 0.001, 0.0001) == pytest.approx(1 / 0.0011)
    assert rate(4, 0.001, 0.0) == pytest.approx(4000)
    assert 7000 < rate(16, 0.001, 0.0001) < 10_000  # less than the lock allows
    assert rate(500, 0.001, 0.0001) == pytest.approx(10_000)


def test_the_model_of_links_ends_at_the_link_and_at_its_latency(benchmark):
    links = benchmark("links")
    costs = links.Costs(shard_s=0.001, byte_s=1e-9, clip_s=0.001, start_trips=7)
    slow, fast = links.Link(1e7, 0.1), links.Link(1e9, 0.1)
    assert links.first_batch_s(slow, 32e6, costs) == pytest.approx(0.7 + 3.2 + 0.05, abs=0.02)
    assert 2e10 / 1e7 / links.epoch_s(slow, 32e6, 2e10, costs) > 0.99
    # three transfers at a time, each of a trip's length: the link is idle for the most part
    assert 2e10 / 1e9 / links.epoch_s(fast, 1e6, 2e10, costs) < 0.01


def test_many_ranks_share_an_epoch_and_its_bytes(benchmark, tmp_path, capsys):
    ranks = benchmark("ranks")
    source = ranks._source(tmp_path, 160)
    row = ranks._row(source, 16, 2)
    low, high = row["samples of a rank"]
    assert high - low <= ranks.BATCH
    assert len(set(row["batches of a rank"])) == 1
    assert 1.0 <= row["fetched by all"] <= 1 + 8 / 160


def test_the_headline_picture_shows_every_peer_that_ran(benchmark, tmp_path):
    row = {"kind": "flac", "decoders": "users", "limit": False}
    rows = [
        row | {"peer": "this project", "samples_per_s": 1400.0},
        row | {"peer": "webdataset", "samples_per_s": 400.0},
        row | {"peer": "broken", "error": "ImportError"},
        row | {"peer": "bare loop", "samples_per_s": 1500.0, "limit": True},
    ]
    rows += [one | {"kind": "decoded"} for one in rows]
    benchmark("picture").draw({"rows": rows}, tmp_path / "headline.svg")
    drawn = (tmp_path / "headline.svg").read_text()
    assert drawn.count(">webdataset<") == drawn.count(">1,400<") == 2
    assert "broken" not in drawn


def test_planning_of_annotations_is_read_off_its_own_benchmark(benchmark, tmp_path, monkeypatch):
    annotations = benchmark("annotations")
    monkeypatch.setattr(annotations, "QUICK_LINES", (200,))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (row,) = annotations.measure(tmp_path, quick=True)
    assert row["lines"] == 200
    assert row["s"] > 0
    assert row["peak_MB"] >= 0


# --- what is kept, recorded and told


def test_a_change_of_code_is_another_code_but_not_one_of_records(benchmark, tmp_path, monkeypatch):
    machine = benchmark("machine")
    for name in ("benchmarks/machine.py", "loader/cache.py", "benchmarks/results/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "benchmarks" / "machine.py"))
    codes = [machine.code()]
    (tmp_path / "benchmarks/results/x.json").write_text("two")
    assert machine.code() == codes[0]
    for text in ("two", "three"):
        (tmp_path / "loader/cache.py").write_text(text)
        codes.append(machine.code())
    assert len(set(codes)) == 3
    assert len({code.partition("+")[0] for code in codes}) == 1


def test_a_recorded_command_has_every_option_and_no_folder_of_work(benchmark, monkeypatch):
    kills = benchmark("kills")
    monkeypatch.setattr(sys, "argv", ["kills.py", "--epochs", "3", "--work", "/w", "--out", "/o"])
    assert benchmark("machine").command("benchmarks/kills.py", kills._arguments()) == (
        "python benchmarks/kills.py --kills 10 --seed 0 --epochs 3 --mode fusion --minutes 0.01"
    )
    args = argparse.Namespace(data=Path("/home/x"), modes=("a", "b"), fast=True, slow=False, n=None)
    told = benchmark("machine").command("x.py", args, data="PERCEPIANO")
    assert told == "python x.py --data PERCEPIANO --modes a b --fast"


def test_phases_of_another_code_are_done_again(benchmark, tmp_path, monkeypatch):
    experiment, done = benchmark("experiment_10k"), []

    def work() -> dict[str, float]:
        done.append(1)
        return {"clips": len(done)}

    for code in ("a", "a", "b", "b"):
        monkeypatch.setattr(experiment, "code", lambda code=code: code)
        phases = experiment.Phases(tmp_path, [])
        assert phases.run("pack", work)["clips"] == len(done)
    assert len(done) == 2


def test_folds_of_another_code_are_trained_again(benchmark, tmp_path, monkeypatch):
    percepiano, trained = benchmark("percepiano"), []
    monkeypatch.setattr(percepiano, "_build", lambda *arguments: None)
    monkeypatch.setattr(percepiano, "_train", lambda *arguments: trained.append(1) or {"r2": 0.5})
    args = argparse.Namespace(work=tmp_path, config=tmp_path / "c.yaml", epochs=1)
    args.config.write_text("x: 1")
    for code in ("a", "a", "b", "b"):
        monkeypatch.setattr(percepiano, "code", lambda code=code: code)
        found = percepiano._kept("piece", 0, "midi", [], [], tmp_path / "shards", args)
        assert found["r2"] == 0.5
    assert len(trained) == 2


@pytest.mark.parametrize("mount", [True, False])
def test_an_epoch_is_compared_with_files_of_the_same_run_alone(benchmark, mount):
    experiment = benchmark("experiment_10k")
    epochs = {"first_epoch_s": 100.0, "cached_epoch_s": 20.0, "files_epoch_s": 2000.0}
    packed = {"seconds": 1.0, "train_samples": 9_003, "val_samples": 998}
    found = {"pack": packed, "mount" if mount else "disk": {"seconds": 3.0, **epochs}}
    args = argparse.Namespace(data=None, clips=10_000, mount=mount)
    phases, *compared = experiment.make_report(found, args)["tables"]
    assert phases["title"].startswith("10,001 ten-second clips")  # as many as were packed
    ratios = [[row[-1] for row in table["rows"]] for table in compared]
    assert ratios == ([["1", "20", "100"]] if mount else [])


@pytest.mark.parametrize(
    ("rounds", "recorded"), [([1.0, 1.6, 2.2], True), ([1.0, 1.1, 2.2], False)]
)
def test_what_spreads_by_more_than_its_median_is_not_recorded(
    benchmark, tmp_path, monkeypatch, capsys, rounds, recorded
):
    quick = benchmark("quick")
    monkeypatch.setattr(quick, "RECORD", tmp_path / "quick.json")
    monkeypatch.setattr(quick, "_run", lambda name, *rest: {"ratio": rounds})
    monkeypatch.setattr(sys, "argv", ["quick.py", "--record", "--work", str(tmp_path / "work")])
    assert quick.main() == (0 if recorded else 1)
    assert (tmp_path / "quick.json").exists() is recorded
    assert ("streaming: ratio, scale: ratio" in capsys.readouterr().out) is not recorded


def test_what_a_soak_raised_tells_no_folder_of_its_machine(benchmark, tmp_path):
    soak = benchmark("soak")
    tally = soak.Tally(raised=[f"FetchError: flaky://{tmp_path}/first/x.tar: gone"])
    args = argparse.Namespace(work=tmp_path, hours=1.0, clips=2, fault_rate=0.05)
    report = soak._report(tally, {"raw": 1}, {"raw": 1}, args, hours=1.0)
    assert report["raised"] == ["FetchError: flaky://first/x.tar: gone"]
    assert str(tmp_path) not in json.dumps(report)


def test_what_is_recorded_is_told(benchmark):
    recorded = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert recorded - {"quick"} <= benchmark("figures").TITLES.keys()


@pytest.fixture
def faults(monkeypatch):
    """benchmarks/faults/run.py, as a module."""
    pytest.importorskip("mfusepy", reason="mfusepy is not installed: pip install '.[bench]'")
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = ROOT / "benchmarks" / "faults" / "run.py"
    spec = importlib.util.spec_from_file_location("faults_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_errors_of_other_libraries_tell_no_folder_of_this_machine(faults, monkeypatch, tmp_path):
    contest = faults.Contest("litdata", tmp_path / "no python", tmp_path)
    error = {"error": f"OSError: {tmp_path}/litdata/truncated/0.bin: gone"}
    monkeypatch.setattr(faults, "FAULTS", {"any": lambda contest: error})
    monkeypatch.setattr(faults.Contest, "write", lambda contest: None)
    outcome = faults._try_all(contest)["outcomes"]["any"]
    assert outcome["error"] == "OSError: truncated/0.bin: gone"


def test_a_library_that_caches_no_files_is_asked_nothing_of_caches(faults, tmp_path):
    contest = faults.Contest("webdataset", tmp_path / "no python", tmp_path)
    outcomes = {fault: {"right": 240, "error": ""} for fault in faults.FAULTS}
    for fault in ("disk of the cache full", "kill -9 three times, then again"):
        outcomes[fault] = faults.FAULTS[fault](contest)
    found = {"webdataset": {"version": "1", "error": "", "outcomes": outcomes}}
    cells = [row[1] for row in faults.table(found)["rows"]]
    assert cells[-2:] == ["does not apply: caches no local files"] * 2
    assert cells[0] == "240 right, no error"


@pytest.mark.parametrize("clips", [1, 49, 50, 9_999, 10_000])
def test_the_10k_experiment_has_all_its_clips_if_the_spare_is_rejected(benchmark, clips):
    experiment = benchmark("experiment_10k")
    cut = experiment.with_spare(clips)
    assert cut - int(experiment.SPARE * cut) >= clips
