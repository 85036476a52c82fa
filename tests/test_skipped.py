"""loader.skipped: how many samples may be skipped, whatever the number of ranks."""

import pytest

from loader.skipped import SkipLog, Skipped, most_skipped
from loader.world import World
from shards.errors import DecodeError

DAMAGED = Skipped("k", "shard-000000.tar", "not audio")


def log(path, *, ranks: int, rate: float = 0.01, samples: int = 1000) -> SkipLog:
    world = World(0, ranks, ranks)
    return SkipLog(path / "e.jsonl", world, epoch=0, samples=samples, max_error_rate=rate)


@pytest.mark.parametrize("ranks", [1, 2, 6, 11, 50])
def test_as_many_may_be_skipped_on_one_of_many_ranks_as_on_one_alone(tmp_path, ranks):
    skips = log(tmp_path, ranks=ranks)
    skips.add([DAMAGED] * 10)
    with pytest.raises(DecodeError, match=r"11 samples.*max_error_rate=0\.01"):
        skips.add([DAMAGED])


@pytest.mark.parametrize("ranks", [1, 8, 100, 1000])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 0.9])
def test_data_that_are_damaged_throughout_raise_on_every_rank(ranks, rate):
    assert most_skipped(rate, samples=100_000, ranks=ranks) < 100_000 / ranks


def test_all_may_be_skipped_where_that_is_asked_for():
    assert most_skipped(1.0, samples=1000, ranks=8) == 1000 / 8
