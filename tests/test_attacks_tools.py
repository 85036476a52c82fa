"""Hostile data before the command lines, the page, the card and the trainer."""

import json
import os
import re
import time
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import corpus
import pytest
import test_trainer
import torch
import yaml
from deadline import in_time

from packer.__main__ import main as packer_main
from packer.card import card
from packer.inspection import look_at_audio, look_at_midi
from packer.serve import PageServer
from packer.survey import rejections
from packer.target import Target
from packer.view import View, write_page
from shards.commands import plain
from shards.faults import FaultError
from shards.manifest import LabelStats, Manifest, ShardInfo
from trainer.__main__ import main as trainer_main

ROOT = Path(__file__).parent.parent
HTML = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!-- '\"` & ${1} $samples"
STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\r"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A dataset of six samples."""
    return corpus.make_dataset(tmp_path_factory.mktemp("small"), samples=6, shard_samples=3)


@pytest.fixture
def poisoned(small, tmp_path) -> Path:
    """The same dataset, with a manifest and rejections that say what they like."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for path in small.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "manifest.json").unlink()
    told = json.loads((small / "manifest.json").read_text())
    stats = told["labels"]["rank"]
    told |= {
        "name": HTML + STEERING,
        "description": HTML + STEERING,
        "packer_version": HTML,
        "labels": {HTML: stats, STEERING: stats},
        "options": {HTML: HTML, "list": [HTML]},
    }
    (folder / "manifest.json").write_text(json.dumps(told))
    line = {"line": 1, "reason": HTML, "kind": HTML, "record": HTML}
    (folder / "rejected.jsonl").write_text(json.dumps(line) + "\n")
    return folder


class Elements(HTMLParser):
    """Tags of a page with the names of their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))


def test_a_hostile_dataset_adds_no_element_to_the_page(small, poisoned, tmp_path):
    """Names, labels, options and reasons are data, in the page of a file and in the served one."""
    pages = []
    for number, folder in enumerate((small, poisoned)):
        out = tmp_path / f"{number}.html"
        write_page(str(folder), out, samples=4, progress=False)
        pages.append(out.read_text())
    assert Elements(pages[0]).found == Elements(pages[1]).found
    assert "alert(1)</script>" not in pages[1]


def test_a_hostile_dataset_adds_nothing_to_its_card():
    stats = LabelStats(1, 0.0, 1.0, 0.5, 0.1)
    evil = f"x\n---\ntags: [evil]\n# {HTML}\n[a](javascript:alert(1)) | {STEERING}"
    told = Manifest(
        name=evil,
        description=evil,
        shards=(ShardInfo("a.tar", 1, 1024),),
        fields={"audio": "flac"},
        labels={evil: stats},
        options={"audio": "flac", "sample_rate": evil, "channels": 1},
    )
    text = card({"train": told})
    _, head, body = text.split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["pretty_name"] == evil
    assert "evil" not in found["tags"]
    assert not re.search(r"(?<!\\)<(?!!-- written by)", body.replace("n<1K", ""))
    assert not re.search(r"(?<!\\)\]\(javascript", body)
    assert "\x1b" not in text


def test_yaml_of_a_manifest_is_no_yaml(tmp_path):
    told = Manifest(name="!!python/object/apply:os.system ['touch x']", shards=())
    head = card({"": told}).split("---\n")[1]
    assert yaml.safe_load(head)["pretty_name"] == told.name


def test_nothing_steers_the_terminal(poisoned, capsys, caplog):
    """Colours, titles, cleared screens and text turned around show as what they are."""
    assert packer_main(["verify", str(poisoned)]) in (0, 1)
    assert packer_main(["index", str(poisoned), "--overwrite", "--name", "x"]) == 0
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, plain(STEERING)):
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)
    assert plain("a\nb\tc é 音") == "a\nb\tc é 音"
    assert plain("\x1b[2J") == r"\x1b[2J"


def test_a_long_reason_takes_no_hours(tmp_path):
    """Looking for what is particular in it takes the square of its length."""
    (tmp_path / "rejected.jsonl").write_text(json.dumps({"reason": "a" * 120_000}) + "\n")
    began = time.process_time()
    assert rejections(Target(str(tmp_path))) == [["a" * 400, 1]]
    assert time.process_time() - began < 5


@pytest.mark.parametrize("look", [look_at_audio, look_at_midi])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_annotations_lead_to_no_pipe_and_no_device(tmp_path, look, what):
    """Reading one would wait for ever, or fill the memory."""
    path = tmp_path / "x.mid"
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(FaultError, match="not a file"):
        in_time(lambda: look(path))


# the served page


@pytest.fixture(scope="module")
def server(small):
    with View(str(small), progress=False) as view, PageServer(view) as served:
        thread = Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def ask(server, path: str, *, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/manifest.json",
        "/audio/../../etc/passwd",
        "/sample?split=0&number=../../etc/passwd",
        "/sample?split=0&number=-1",
        "/audio?split=0&number=99999999999999999999",
        "/samples?split=0&start=0&count=1e9",
    ],
)
def test_the_server_gives_no_file_but_the_page(server, path):
    status, data = ask(server, path)
    assert status in (400, 404)
    assert data == b""


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "10.0.0.1", "[::]"],
)
def test_a_name_that_was_bound_to_this_machine_is_refused(server, host):
    """DNS rebinding: a page of the web sends requests here under its own name."""
    assert ask(server, "/", host=host)[0] == 403


def test_the_server_listens_to_this_machine_alone_and_changes_nothing(server):
    assert server.server_address[0] == "127.0.0.1"
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, "/", method=method)[0] == 501


# the trainer


class Payload:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("splits")
    for first, split in enumerate(test_trainer.SIZES):
        test_trainer.write_split(root / split, range(8 * first, 8 * first + 8))
    return root


@pytest.mark.parametrize("name", ["fit", "validate", "test"])
def test_no_code_in_a_checkpoint_runs(splits, tmp_path, monkeypatch, capsys, name):
    """Plain values only are loaded, whatever the file claims to be and the options ask for."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": Payload()}, tmp_path / "evil.ckpt")
    options = (f"--ckpt_path={tmp_path / 'evil.ckpt'}", "--mode=midi", "--weights_only=false")
    assert trainer_main(test_trainer.command(name, splits, tmp_path / "runs", *options)) == 1
    assert "more than tensors and plain values" in capsys.readouterr().err
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize(
    "config",
    [
        "data: !!python/object/apply:os.system ['touch executed']",
        "data:\n  shards: !!python/name:os.system",
        "trainer:\n  callbacks:\n  - class_path: evil_module.Payload",
        "trainer:\n  logger:\n    class_path: evil_module.Payload",
        "model:\n  class_path: evil_module.Payload",
        "seed_everything: !!python/object/new:os.system ['touch executed']",
    ],
)
def test_nothing_in_a_config_runs(tmp_path, monkeypatch, capsys, config):
    """Neither tags of YAML nor classes that would have to be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil_module.py").write_text("open('executed', 'w')\n")
    (tmp_path / "config.yaml").write_text(config + "\n")
    with pytest.raises(SystemExit) as caught:
        trainer_main(["fit", "--config", str(tmp_path / "config.yaml")])
    assert caught.value.code == 2
    assert not (tmp_path / "executed").exists()
