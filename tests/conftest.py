"""Fixtures that several test modules share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers that lie beside the tests

import corpus


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """50 one-second samples of audio, MIDI and two labels at 8 kHz, in some five shards."""
    return corpus.make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, tmp_path_factory, monkeypatch):
    """No test touches the caches of the user."""
    monkeypatch.setenv("SHARD_CACHE_DIR", str(tmp_path / "shard-cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache-home")))
