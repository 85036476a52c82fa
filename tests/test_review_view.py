"""packer view and serve: one odd sample or request is answered, and stops nothing else."""

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from packer.foreign import index
from packer.picture import MEL_BANDS, mel_picture
from packer.portrait import portrait
from packer.serve import PageServer
from packer.view import View, to_json, write_page
from shards.tar import END_OF_ARCHIVE, sample_bytes

WAV_BYTES = 44 + 2 * 1000


def wav(rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(1000, 500, np.int16), rate, format="WAV")
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(1000, np.int16))
    return file.getvalue()


ODD = {
    "infinite": {"wav": wav(8000), "json": b'{"labels": {"q": 1e999, "r": 1}}'},
    "endless": {"wav": wav(8000), "json": b'{"labels": {"q": 1%s}}' % (b"0" * 400)},
    "slow": {"wav": wav(50), "json": b"{}"},
    "slower": {"audio.npy": npy(), "json": b'{"sample_rate": 3}'},
    "fast": {"audio.npy": npy(), "json": b'{"sample_rate": 1000000000000}'},
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    blocks = [sample_bytes(key, members) for key, members in ODD.items()]
    (folder / "shard-000000.tar").write_bytes(b"".join(blocks) + END_OF_ARCHIVE)
    list(index(str(folder), workers=0, progress=False))
    return folder


@pytest.fixture(scope="module")
def port(odd) -> Iterator[int]:
    with View(str(odd), progress=False) as view, PageServer(view) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def status(port: int, path: str, **headers: str) -> tuple[int, int]:
    """Status and length of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, len(answer.read())
    connection.close()
    return found


def test_odd_samples_are_shown_as_far_as_they_can(odd, tmp_path):
    assert write_page(str(odd), tmp_path / "page.html", progress=False) == len(ODD)


@pytest.mark.parametrize("key", ["infinite", "endless"])
def test_labels_that_are_no_finite_number_are_not_shown(key):
    shown = json.loads(to_json(portrait(key, ODD[key])))
    assert shown["labels"] == ({"r": 1} if key == "infinite" else {})
    assert shown["faults"] == []


@pytest.mark.parametrize(("key", "rate"), [("slow", 50), ("slower", 3), ("fast", 10**12)])
def test_rates_that_no_recording_has_are_not_drawn(key, rate):
    shown = portrait(key, ODD[key])
    (fault,) = shown["faults"]
    assert f"has a rate of {rate} Hz" in fault
    assert "mel" not in shown


@pytest.mark.parametrize("rate", [40, 100])
def test_a_picture_of_few_frames_a_second_has_all_bands(rate):
    samples = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    assert mel_picture(samples, rate).shape[0] == MEL_BANDS


@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_samples_are_served(port, number):
    assert status(port, f"/sample?split=0&number={number}")[0] == 200


@pytest.mark.parametrize("query", ["split=0", "split=0&number=x", f"split=0&number={'9' * 5000}"])
def test_values_that_are_no_numbers_are_bad_requests(port, query):
    assert status(port, f"/sample?{query}")[0] == 400


def test_a_malformed_url_is_a_bad_request(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"400"


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("bytes=-0", (416, 0)),
        (f"bytes=0-{'9' * 5000}", (416, 0)),
        (f"bytes=-{'9' * 5000}", (416, 0)),
        (f"bytes={WAV_BYTES}-", (416, 0)),
        ("bytes=-10", (206, 10)),
        ("bytes=5-9", (206, 5)),
        ("bytes=5-", (206, WAV_BYTES - 5)),
        ("bytes=5-999999", (206, WAV_BYTES - 5)),
        ("bytes=-999999", (206, WAV_BYTES)),
        ("bytes=-", (200, WAV_BYTES)),
        ("lines=1-2", (200, WAV_BYTES)),
    ],
)
def test_ranges_are_answered_as_far_as_they_lie_in_the_audio(port, asked, answer):
    assert status(port, "/audio?split=0&number=0", Range=asked) == answer
