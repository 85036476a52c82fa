"""What the benchmarks compute out of what they measure: changes, models, plans of many ranks."""

import importlib
import json

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
