"""packer view: a page that shows and plays a dataset, whatever names are in it."""

import base64
import hashlib
import html
import http.client
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import corpus
import fsspec
import numpy as np
import pytest
import soundfile
import symusic
from browser import Browser, browse

from packer import view
from packer.foreign import index
from packer.picture import envelope, mel_picture, mel_weights
from packer.portrait import portrait
from packer.serve import PageServer
from packer.survey import evenly, histogram
from packer.view import View, to_json, write_page
from shards.errors import ManifestError
from shards.tar import END_OF_ARCHIVE, sample_bytes

RATE = corpus.SAMPLE_RATE
EVIL = "<script>alert(1)</script>"
SEPARATORS = "\u2028\u2029"


def flac(seconds: float = 0.5, *, hertz: float = 440.0) -> bytes:
    target = io.BytesIO()
    times = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(target, 0.5 * np.sin(2 * np.pi * hertz * times), RATE, format="FLAC")
    return target.getvalue()


def midi(pedal: list[tuple[float, int]] = ()) -> bytes:
    """Two notes a quarter of a second apart; the pedal is set at some seconds."""
    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, qpm=120))
    track = symusic.Track()
    track.notes = symusic.core.NoteTickList(
        [symusic.Note(0, 240, 60, 64), symusic.Note(240, 240, 64, 100)]
    )
    for seconds, value in pedal:
        track.controls.append(symusic.ControlChange(round(seconds * 960), 64, value))
    score.tracks.append(track)
    return score.dumps_midi()


def sample(number: int, **record: object) -> dict[str, bytes]:
    meta = {"labels": {EVIL: number, "rank": number / 10}, "duration": 0.5, "piece": EVIL}
    return {
        "flac": flac(),
        "json": json.dumps(meta | record).encode(),
        "mid": midi([(0.1, 127), (0.3, 0)]),
    }


def write_dataset(folder: Path, samples: dict[str, dict[str, bytes]], *, per_shard: int) -> Path:
    folder.mkdir(parents=True)
    keys = list(samples)
    for first in range(0, len(keys), per_shard):
        blocks = [sample_bytes(key, samples[key]) for key in keys[first : first + per_shard]]
        name = f"shard-{first // per_shard:06d}.tar"
        (folder / name).write_bytes(b"".join(blocks) + END_OF_ARCHIVE)
    list(index(str(folder), name=EVIL, workers=0, progress=False))
    return folder


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Path:
    """Two splits whose names, keys, labels and annotations are hostile, or try to be."""
    root = tmp_path_factory.mktemp("view") / "shards"
    train = {f"train-{n}": sample(n, text=SEPARATORS) for n in range(8)}
    train["<img src=x onerror=alert(2)>"] = sample(8)
    write_dataset(root / "train", train, per_shard=4)
    write_dataset(root / "val", {f"val-{n}": sample(n) for n in range(3)}, per_shard=2)
    reasons = [{"reason": f"{name!r}: no such file"} for name in "ab"]
    reasons.append({"reason": "Expecting value", "kind": "not a JSON object"})
    (root / "rejected.jsonl").write_text("\n".join(map(json.dumps, reasons)))
    return root


@pytest.fixture(scope="module")
def page(splits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    assert write_page(str(splits), path, progress=False) == 12
    return path


def embedded(text: str) -> dict[str, dict]:
    """The JSON elements of a page by their id."""
    found = re.findall(r'<script type="application/json" id="(.*?)">(.*?)</script>', text, re.S)
    return {name: json.loads(content) for name, content in found}


# ---- content


def test_the_page_says_what_the_dataset_holds(page):
    about = embedded(page.read_text())["data"]
    train, val = about["splits"]
    assert (train["name"], val["name"]) == ("train", "val")
    assert (train["samples"], train["shards"], train["seconds"]) == (9, 3, 4.5)
    assert train["fields"] == {"audio": "flac", "midi": "mid"}
    rank = train["labels"][1]
    assert (rank["name"], rank["count"], rank["min"], rank["max"]) == ("rank", 9, 0, 0.8)
    assert sum(rank["bins"]) == 9
    assert about["rejected"] == [["…: no such file", 2], ["not a JSON object", 1]]
    assert [row["key"] for row in about["lists"][1]] == ["val-0", "val-1", "val-2"]


def test_a_sample_comes_with_audio_pictures_notes_and_pedal(page):
    shown = embedded(page.read_text())["sample-0-3"]
    assert base64.b64decode(shown["audio"]) == flac()
    assert (shown["type"], shown["seconds"], shown["rate"]) == ("audio/flac", 0.5, RATE)
    assert shown["notes"] == [[0, 0.25, 60, 64], [0.25, 0.25, 64, 100]]
    assert shown["pedal"] == [[0.1, 0.3]]
    assert base64.b64decode(shown["mel"]).startswith(b"\x89PNG")
    assert json.loads(shown["json"])["piece"] == EVIL
    assert shown["faults"] == []


def test_a_pedal_that_stays_down_ends_with_the_sample():
    assert portrait("a", {"mid": midi([(0.2, 64)])})["pedal"] == [[0.2, 0.5]]


def test_what_is_damaged_is_told_and_the_rest_is_shown():
    shown = portrait("a", {"flac": flac()[:60], "mid": midi(), "json": b"{"})
    assert "wave" not in shown
    assert len(shown["notes"]) == 2
    (fault,) = shown["faults"]
    assert fault.startswith("audio: .flac")


def test_decoded_audio_is_played_as_flac(tmp_path):
    target, pcm = io.BytesIO(), np.arange(800, dtype=np.int16)
    np.save(target, pcm)
    members = {"audio.npy": target.getvalue(), "json": json.dumps({"sample_rate": RATE}).encode()}
    dataset = write_dataset(tmp_path / "npy", {"a": members}, per_shard=1)
    write_page(str(dataset), tmp_path / "page.html", progress=False)
    shown = embedded((tmp_path / "page.html").read_text())["sample-0-0"]
    played, rate = soundfile.read(io.BytesIO(base64.b64decode(shown["audio"])), dtype="int16")
    assert (rate, played.tolist()) == (RATE, pcm.tolist())
    assert portrait("a", {"audio.npy": target.getvalue()})["faults"] == [
        "audio: .audio.npy needs a sample_rate in its JSON"
    ]


def test_a_tone_lies_in_its_band_and_silence_is_black():
    times = np.arange(RATE, dtype=np.float32) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 880 * times)
    loudness = mel_picture(tone, RATE)[::-1].astype(float).mean(axis=1)
    size = 2 * (mel_weights(RATE, 512).shape[1] - 1)
    centre = np.argmax(mel_weights(RATE, size)[np.argmax(loudness)]) * RATE / size
    assert centre == pytest.approx(880, abs=RATE / size * 2)
    assert not mel_picture(np.zeros(RATE, np.float32), RATE).any()


def test_an_envelope_keeps_every_peak():
    samples = np.zeros(10_000, np.float32)
    samples[7_777], samples[1_234] = 1.0, -1.0
    low, high = envelope(samples).T
    assert (low.min(), high.max()) == (-127, 127)
    assert np.argmax(high) == 7_777 * 640 // 10_000


def test_a_histogram_counts_every_value_once():
    assert histogram([0.0, 1.0, 1.0])["bins"] == [1, *[0] * 22, 2]
    assert histogram([2.0, 2.0]) == {"low": 2.0, "high": 2.0, "bins": [2]}
    assert histogram([])["bins"] == []


# ---- how much of it


def test_samples_are_chosen_evenly():
    assert list(evenly(range(10), 3)) == [0, 3, 6]
    assert list(evenly(range(2), 3)) == [0, 1]


def test_a_page_holds_as_many_samples_as_asked_for(splits, tmp_path):
    assert write_page(str(splits), tmp_path / "page.html", samples=4, progress=False) == 4
    about = embedded((tmp_path / "page.html").read_text())["data"]
    assert [[row["number"] for row in rows] for rows in about["lists"]] == [[0, 3, 6], [0]]
    with pytest.raises(ValueError, match="samples must be at least 1"):
        write_page(str(splits), tmp_path / "page.html", samples=0)


def test_a_page_stays_below_its_limit(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(view, "PAGE_BYTES", 400_000)
    path = tmp_path / "page.html"
    assert 2 <= write_page(str(splits), path, progress=False) < 6
    assert path.stat().st_size < 400_000
    assert embedded(path.read_text())["data"]["full"]
    monkeypatch.setattr(view, "PAGE_BYTES", len(flac()))
    write_page(str(splits), path, progress=False)
    shown = embedded(path.read_text())["sample-0-0"]
    assert "too much" in shown["silent"]
    assert "audio" not in shown


def test_of_a_remote_dataset_a_few_shards_are_read(tmp_path):
    remote = fsspec.filesystem("memory")
    local = write_dataset(tmp_path / "d", {f"s{n}": sample(n) for n in range(6)}, per_shard=1)
    remote.put(str(local), "/view-remote", recursive=True)
    with View("memory://view-remote", progress=False) as looked:
        (split,) = looked.splits
        assert [entry.shard for entry in split.entries] == [0, 1, 3, 4]
        assert split.portrait(3)["key"] == "s4"
        assert looked.about()["splits"][0]["surveyed"] == 4
    with View("memory://view-remote", shards=2, progress=False) as looked:
        assert [entry.shard for entry in looked.splits[0].entries] == [0, 3]


@pytest.mark.parametrize(("place", "error"), [(".", ValueError), ("file/page.html", OSError)])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(tmp_path, place, error):
    (tmp_path / "file").touch()
    with pytest.raises(error, match=r"is a folder|file"):
        write_page(str(tmp_path / "no dataset"), tmp_path / place, progress=False)


def test_what_is_no_dataset_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ManifestError, match="python -m packer index"):
        write_page(str(tmp_path), tmp_path / "page.html", progress=False)
    assert not (tmp_path / "page.html").exists()


# ---- nothing of it is ever markup


def test_json_may_hold_anything():
    value = {EVIL: SEPARATORS, "&": ["]]>", "<!--"]}
    text = to_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_names_stay_text(page):
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<img" not in text
    assert f"<title>{html.escape(EVIL)}</title>" in text
    assert embedded(text)["data"]["splits"][0]["labels"][0]["name"] == EVIL


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched(page):
    text = page.read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", script)
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)


# ---- served


@contextmanager
def served(url: str) -> Iterator[PageServer]:
    with View(url, progress=False) as looked, PageServer(looked) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(splits) -> Iterator[PageServer]:
    with served(str(splits)) as running:
        yield running


def get(server: PageServer, path: str, **headers: str) -> tuple[int, bytes, str]:
    """Status, body and Content-Range of an answer."""
    link = http.client.HTTPConnection("127.0.0.1", server.server_port)
    try:
        link.request("GET", path, headers=headers)
        answer = link.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Range", "")
    finally:
        link.close()


def test_samples_are_listed_in_parts_and_searched(server):
    _, body, _ = get(server, "/samples?split=0&start=2&count=2")
    part = json.loads(body)
    assert part["total"] == 9
    assert [row["key"] for row in part["samples"]] == ["train-2", "train-3"]
    _, body, _ = get(server, "/samples?split=0&search=ALERT+train-5&start=0&count=9")
    assert [row["number"] for row in json.loads(body)["samples"]] == [5]
    _, body, _ = get(server, "/sample?split=1&number=2")
    assert json.loads(body)["key"] == "val-2"


@pytest.mark.parametrize(
    ("asked", "span"),
    [("bytes=10-19", (10, 20)), ("bytes=30-", (30, None)), ("bytes=-5", (-5, None))],
)
def test_audio_is_sent_by_range(server, asked, span):
    status, body, told = get(server, "/audio?split=0&number=0", Range=asked)
    assert status == 206
    assert body == flac()[slice(*span)]
    first = span[0] % len(flac())
    assert told == f"bytes {first}-{first + len(body) - 1}/{len(flac())}"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/audio?split=0&number=0", 200),
        ("/sample?split=0&number=9", 404),
        ("/sample?split=2&number=0", 404),
        ("/sample?split=0&number=-1", 400),
        ("/sample?split=0", 400),
        ("/manifest.json", 404),
        ("/../etc/passwd", 404),
    ],
)
def test_only_what_there_is_is_answered(server, path, status):
    assert get(server, path)[0] == status


def test_a_range_outside_and_another_host_are_refused(server):
    assert get(server, "/audio?split=0&number=0", Range="bytes=999999-")[0] == 416
    assert get(server, "/", Host="evil.example:80")[0] == 403
    assert get(server, "/", Host="evil.example")[0] == 403
    assert get(server, "/", Host=f"localhost:{server.server_port}")[0] == 200
    assert get(server, "/", Host="127.0.0.1")[0] == 200


# ---- in a browser

STATE = "({...document.documentElement.dataset})"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with browse(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("way", ["file", "server"])
def test_a_browser_draws_plays_and_runs_nothing_of_the_data(page, server, browser, way):
    browser.open(page.as_uri() if way == "file" else server.url)
    browser.until("document.documentElement.dataset.audio")
    browser.until("document.documentElement.dataset.mels === '1'")
    state = browser.run(STATE)
    assert (state["audio"], state["waves"]) == ("0.50", "1")
    assert (state["notes"], state["pedals"]) == ("2", "1")
    assert state["histograms"] == "4"  # of two labels, and these of the sample; one length
    assert browser.run("document.querySelectorAll('main script, main img').length") == 0
    assert browser.run("document.querySelector('h1').textContent") == EVIL
    keys = browser.run("[...document.querySelectorAll('#list .key')].map(e => e.textContent)")
    assert keys[-1] == "<img src=x onerror=alert(2)>"
    assert (browser.run(STATE)["errors"], browser.errors) == ("", [])


def test_playing_moves_the_cursor_and_keys_do_the_rest(page, browser):
    heading = "document.querySelector('#sample h2').textContent"
    browser.open(page.as_uri())
    browser.until("document.documentElement.dataset.audio")
    browser.press(" ")
    browser.until("document.querySelector('.cursor').getBoundingClientRect().x > 500")
    browser.press("j")
    browser.until(f"{heading} === 'train-1'")
    for _ in range(5):  # faster than audio loads
        for key in (" ", " ", "j"):
            browser.press(key)
    browser.press("/")
    for letter in "alert(2)":
        browser.press(letter)
    browser.until("document.querySelectorAll('#list .key').length === 1")
    browser.until(f"{heading}.startsWith('<img')")
    browser.run("document.querySelectorAll('[role=tab]')[1].click()")
    browser.until("document.querySelector('#count').textContent === '0 found in 3 samples'")
    browser.run("document.querySelector('#search').value = ''")
    browser.run("document.querySelector('#search').dispatchEvent(new Event('input'))")
    browser.until(f"{heading} === 'val-0'")
    assert browser.errors == []


def test_a_phone_shows_it_without_scrolling_sideways(page, browser):
    browser.open(page.as_uri(), width=360, height=740)
    browser.until("document.documentElement.dataset.mels")
    assert browser.run("document.documentElement.scrollWidth") == 360
    small = "b => b.getBoundingClientRect().height < 44 && b.textContent"
    assert browser.run(f"[...document.querySelectorAll('button, summary')].filter({small})") == []
