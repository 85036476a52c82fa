"""loader.ahead: the shard that the reader waits for comes first, and alone."""

import corpus
import pytest
from faultfs import FaultFileSystem

from loader.ahead import ReadAhead
from loader.cache import ShardCache
from loader.mixture import Mixture
from loader.order import Order
from loader.source import open_source
from loader.stats import Stats
from loader.store import ShardStore


class LoggedStore(ShardStore):
    """Tells which fetches began and ended, in ``log``."""

    def ensure(self, number: int) -> None:
        self.log.append(("begun", number))
        super().ensure(number)
        self.log.append(("there", number))


@pytest.fixture(autouse=True)
def _faultless():
    FaultFileSystem.reset()
    yield
    FaultFileSystem.reset()


@pytest.fixture
def source(tmp_path):
    return open_source(f"fault://{corpus.make_dataset(tmp_path, samples=20, shard_samples=4)}")


def read_ahead(source, tmp_path) -> list[tuple[str, int]]:
    """What happened, in order, when everything was fetched ahead."""
    store = LoggedStore([source], ShardCache(tmp_path / "cache"), Stats())
    store.log = []
    mixture = Mixture([Order(source.rows, shuffle=0)])
    ReadAhead(store, mixture, epoch=0, start=0, stream=None, horizon=100).join(20)
    store.close()
    return store.log


def test_the_first_shard_is_fetched_alone(source, tmp_path):
    FaultFileSystem.delay_s = 0.05  # time for the others to begin, if they did
    log = read_ahead(source, tmp_path)
    assert log[:2] == [("begun", 0), ("there", 0)]
    assert sorted(log) == [
        (word, n) for word in ("begun", "there") for n in range(len(source.rows))
    ]


def test_a_first_shard_that_cannot_be_fetched_does_not_keep_the_others(source, tmp_path):
    with open(source.shards[0].url.removeprefix("fault://"), "ab") as tar:
        tar.write(b"more than the manifest says")
    log = read_ahead(source, tmp_path)
    assert ("there", 0) not in log
    assert {number for word, number in log if word == "there"} == set(range(1, len(source.rows)))
