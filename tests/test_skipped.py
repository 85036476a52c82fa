"""loader.skipped: how many samples may be skipped, whatever the number of ranks."""

import pytest

from loader.skipped import SkipLog, Skipped, most_skipped
from loader.world import World
from shards.errors import DecodeError

DAMAGED = Skipped("k", "shard-000000.tar", "not audio")


def log(path, *, ranks: int, rate: float = 0.01, samples: int = 1000) -> SkipLog:
    world = World(0, ranks, ranks)
    return SkipLog(path / "e.jsonl", world, epoch=0, samples=samples, max_error_rate=rate)


@pytest.mark.parametrize(
    ("rate", "samples", "ranks", "most"),
    [
        (0.01, 1000, 1, 10),  # of one rank, the rate
        (0.5, 1000, 1, 500),
        (0.01, 10_000, 2, 71),  # 50 + 21
        (0.01, 10_000, 32, 8),
        (0.01, 10_000, 50, 6),
        (0.01, 1_000_000, 8, 1356),
        (0.01, 100, 8, 1),  # never more than the rate of the epoch
        (0.5, 8, 4, 4),
        (0.01, 99, 1, 0),
    ],
)
def test_a_rank_may_skip_so_many(tmp_path, rate, samples, ranks, most):
    skips = log(tmp_path, ranks=ranks, rate=rate, samples=samples)
    skips.add([DAMAGED] * most)
    with pytest.raises(DecodeError, match=rf"^{most + 1} samples.*max_error_rate={rate}"):
        skips.add([DAMAGED])


@pytest.mark.parametrize(
    ("damaged", "samples", "ranks"),
    [*((2, 1000, ranks) for ranks in range(1, 12)), (1, 10_000, 128), (1, 1_280_000, 128)],
)
def test_a_few_that_lie_together_on_one_rank_raise_in_no_world(tmp_path, damaged, samples, ranks):
    log(tmp_path, ranks=ranks, samples=samples).add([DAMAGED] * damaged)
    (listed,) = tmp_path.iterdir()
    assert len(listed.read_text().splitlines()) == damaged


@pytest.mark.parametrize("ranks", [1, 8, 100, 1000])
@pytest.mark.parametrize(("rate", "share"), [(0.01, 0.15), (0.1, 0.25), (0.5, 0.75)])
def test_data_that_are_damaged_throughout_raise_on_every_rank(ranks, rate, share):
    assert most_skipped(rate, samples=100_000, ranks=ranks) < share * 100_000 / ranks


@pytest.mark.parametrize("ranks", [1, 8])
def test_rate_0_allows_none(ranks):
    assert most_skipped(0.0, samples=1000, ranks=ranks) == 0


def test_all_may_be_skipped_where_that_is_asked_for():
    assert most_skipped(1.0, samples=1000, ranks=8) >= 1000 / 8
