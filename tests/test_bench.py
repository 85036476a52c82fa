"""python -m loader bench: every setting measured warm, what limits it, and which to take."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from faultfs import FaultFileSystem

from loader.__main__ import main
from loader.bench import Copies, Rate, Report, Task, bench, find_bound, worker_counts
from loader.chart import require_drawing
from loader.table import write_report

QUICK = ["--seconds", "0.05", "--sample-rate", "8000", "--clip-seconds", "1"]
SHARES = {"fetch": 0.0, "read": 0.1, "audio": 0.7, "midi": 0.1, "batch": 0.1}


@pytest.fixture(autouse=True)
def _faultless():
    FaultFileSystem.reset()
    yield
    FaultFileSystem.reset()


def measured(capsys, *command: str) -> dict:
    assert main(["bench", *command, *QUICK, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rate(workers: int | str, samples_per_s: float, cache: str = "raw", **others: float) -> Rate:
    known = {"waiting": 0.9, "busy_cores": 2.0, "shares": SHARES, "bound": "decode"}
    return Rate(cache, workers, samples_per_s, **known | others)


def report(*rates: Rate, **task: float) -> Report:
    return Report(Task("data/train", **task), cores=2, first_pass=None, rates=rates)


def test_every_count_of_threads_is_measured_with_every_cache(dataset, tmp_path, capsys):
    result = measured(capsys, str(dataset), "--cache-dir", str(tmp_path / "cache"))
    counts = list(worker_counts(result["cores"]))
    settings = [(rate["cache"], rate["workers"]) for rate in result["rates"]]
    assert settings == [(cache, count) for cache in ("raw", "decoded") for count in counts]
    for one in result["rates"]:
        assert one["samples_per_s"] > 0
        assert one["busy_cores"] > 0
        assert sum(one["shares"].values()) == pytest.approx(1)
    assert result["first_pass"] is None  # read in place
    assert result["best"] in result["rates"]


def test_decoded_copies_are_there_before_they_are_measured(dataset, tmp_path, monkeypatch):
    cache, shards = tmp_path / "cache", len(list(dataset.glob("*.tar")))
    there = []

    def note(*_: object) -> Rate:
        there.append(len(list(cache.glob("*-decoded-*/*.tar"))))
        return rate(1, 1.0, "decoded")

    monkeypatch.setattr("loader.bench._measure", note)
    bench(Task(str(dataset), 0.02, caches=("decoded",), cache_dir=cache, sample_rate=8000))
    assert set(there) == {shards}


def test_copies_that_are_coming_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("loader.bench._QUIET_S", 0.0)
    part, tar = tmp_path / "shard.tar.9.part", tmp_path / "shard.tar"
    part.touch()
    coming = threading.Timer(0.5, lambda: part.rename(tar))
    coming.start()
    assert Copies((tmp_path,), total=1).wait()
    assert tar.exists()
    assert Copies((tmp_path,), total=2).wait()  # one could not be decoded, say
    assert not Copies((tmp_path / "none",), total=1).wait()


def test_the_first_pass_tells_what_was_fetched_and_the_others_fetch_nothing(
    dataset, tmp_path, capsys
):
    command = [f"fault://{dataset}", "--caches", "raw", "--cache-dir", str(tmp_path / "cache")]
    result = measured(capsys, *command)
    assert result["first_pass"]["fetched_bytes_per_s"] > 0
    assert not any(one["fetched_bytes_per_s"] for one in result["rates"])
    FaultFileSystem.reset()
    assert measured(capsys, *command)["first_pass"] is None
    assert not [url for url in FaultFileSystem.opened if url.endswith(".tar")]


def test_only_a_subset_is_fetched(dataset, tmp_path, capsys):
    cache = tmp_path / "cache"
    command = ["--subset", "12", "--caches", "raw", "--cache-dir", str(cache)]
    measured(capsys, f"fault://{dataset}", *command)
    assert 0 < len(list(cache.glob("*/*.tar"))) < len(list(dataset.glob("*.tar")))


def test_a_step_takes_its_time_and_waiting_is_told(dataset, capsys):
    command = ["bench", str(dataset), "--caches", "raw", "--step-ms", "20", *QUICK]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert all(one["samples_per_s"] < 16 / 0.02 for one in result["rates"])
    assert main(command) == 0
    assert "a training step of 20 ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("waiting", "busy", "longest", "bound"),
    [
        (0.05, 0.5, "audio", "consumer"),
        (0.9, 0.95, "audio", "decode"),
        (0.9, 0.95, "fetch", "decode"),  # fetched ahead, and nobody waits for it
        (0.9, 0.2, "fetch", "link"),
        (0.9, 0.2, "read", "disk"),
        (0.9, 0.2, "audio", "decode"),
    ],
)
def test_the_bound_is_what_is_waited_for(waiting, busy, longest, bound):
    assert find_bound(waiting, busy, SHARES | {longest: 2.0}) == bound


def test_reading_a_map_counts_as_the_disk():
    assert find_bound(0.9, 0.2, SHARES | {"audio": 2.0}, mapped=True) == "disk"
    assert find_bound(0.9, 0.95, SHARES | {"audio": 2.0}, mapped=True) == "decode"


def test_counts_go_up_to_twice_the_cores():
    assert worker_counts(1) == (0, 1, 2, "auto")
    assert worker_counts(6) == (0, 1, 2, 4, 8, "auto")


def test_the_best_has_the_fewest_threads_of_those_alike():
    assert report(rate(1, 500), rate(2, 990), rate(4, 1000)).best.workers == 2
    assert report(rate(2, 990), rate(2, 1000, "decoded")).best.cache == "raw"
    assert report(rate(2, 900), rate(1, 1000, "decoded")).best.cache == "decoded"


def test_no_threads_are_recommended_only_where_a_step_was_measured():
    rates = rate(0, 1000), rate(1, 900)
    assert report(*rates).best.workers == 1
    assert report(*rates, step_ms=50).best.workers == 0


def test_the_report_ends_with_the_setting_to_take():
    lines = write_report(report(rate(1, 500), rate(2, 1000))).splitlines()
    assert lines[-1] == "best: num_workers=2, cache='raw': 1000 samples/s"
    assert "decode-bound: audio 70%, read 10%" in lines[1]
    hungry = report(rate(1, 500, waiting=0.4), step_ms=20)
    assert write_report(hungry).splitlines()[-1].startswith("a training step of 20 ms starves: 40%")
    fed = replace(hungry, rates=(rate(1, 800, waiting=0.01),))
    assert "is kept fed: 1%" in write_report(fed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "seconds"),
        (["--step-ms", "-1"], "step_ms"),
        (["--batch-size", "0"], "batch_size"),
        (["--caches", "raw,cooked"], "cooked"),
        (["--out", "bench.gif"], ".png"),
        (["--out", "no/such/folder/bench.png"], "mkdir -p no/such/folder"),
    ],
)
def test_a_wrong_option_is_told_in_a_line(dataset, caplog, arguments, message):
    assert main(["bench", str(dataset), *arguments]) == 1
    assert message in caplog.text


@pytest.mark.parametrize("option", ["--seconds", "--clip-seconds", "--step-ms"])
def test_an_option_that_is_no_number_is_told_at_once(capsys, option):
    with pytest.raises(SystemExit):
        main(["bench", "nowhere", option, "inf"])
    assert f"argument {option}: 'inf' is no number" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["seconds", "step_ms"])
def test_a_task_without_end_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be .* and finite, got inf"):
        Task("nowhere", **{name: math.inf})


@pytest.mark.parametrize(
    ("name", "message"), [("x.png", "is a folder; name a"), ("y.png", "its folder cannot be wri")]
)
def test_a_place_that_cannot_be_written_is_told_first(tmp_path, monkeypatch, name, message):
    (tmp_path / "x.png").mkdir()
    monkeypatch.setattr("loader.chart.importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("loader.chart.os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match=message):
        require_drawing(tmp_path / name)


def test_where_nothing_can_be_drawn_the_remedy_is_told_first(dataset, caplog, monkeypatch):
    monkeypatch.setattr("loader.chart.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("loader.bench.bench", lambda task: pytest.fail("it was measured"))
    assert main(["bench", str(dataset), "--out", "bench.png"]) == 1
    assert "pip install matplotlib" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("first_pass", [None, rate("auto", 300, fetched_bytes_per_s=5e6)])
def test_the_picture_names_every_cache_and_the_best_rate(tmp_path, suffix, first_pass):
    pytest.importorskip("matplotlib")
    from loader.chart import draw

    counts = worker_counts(2)
    rates = [rate(count, 100 + place) for place, count in enumerate(counts)]
    rates += [rate(count, 1200 + place, "decoded") for place, count in enumerate(counts)]
    path = tmp_path / f"bench{suffix}"
    draw(replace(report(*rates), first_pass=first_pass), path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    if suffix == ".png":
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        text = path.read_text()
        assert {"cache raw", "cache decoded", "1,204"} <= set(words(text))
        assert ("first pass" in text) is (first_pass is not None)


def words(svg: str) -> list[str]:
    return [piece.partition("</text>")[0] for piece in svg.split(">") if "</text" in piece] + [
        piece.rpartition(">")[2] for piece in svg.split("</text>")
    ]


def test_an_interrupted_benchmark_leaves_a_cache_that_is_good(dataset, tmp_path, monkeypatch):
    cache, command = tmp_path / "cache", ["bench", f"fault://{dataset}", "--caches", "raw", *QUICK]
    command += ["--cache-dir", str(cache)]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loader.bench._measure", interrupt)
    assert main(command) == 130
    monkeypatch.undo()
    monkeypatch.setenv("SHARD_CACHE_DIR", str(cache))
    assert not list(Path(cache).rglob("*.part"))
    FaultFileSystem.reset()
    assert main(command) == 0
    assert not [url for url in FaultFileSystem.opened if url.endswith(".tar")]
