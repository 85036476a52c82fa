"""loader.order, mixture and world: exact orders, split fairly, frozen as numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.mixture import Mixture
from loader.order import Order, bijection, hash_key, permutation, window_starts
from loader.world import World, find_world, step_count, step_positions

ROWS = np.array([5, 3, 8, 1, 0, 40, 7])

FROZEN_PERMUTATION = [3, 4, 0, 1, 5, 2]
FROZEN_WINDOWS = [16, 35, 38, 46, 22, 31]
FROZEN_FULL = [37, 47, 44, 40, 33, 48]
FROZEN_STREAMS = [16, 55, 35, 50, 38, 51]
FROZEN_MIXTURE = [[1, 0, 0, 1, 0, 0], [13, 37, 59, 57, 21, 51]]

shuffles = st.one_of(st.just("full"), st.integers(0, 200))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum),
    shuffle=shuffles,
    streams=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_every_sample_once(rows, shuffle, streams, epoch):
    order = Order(np.array(rows), seed=5, shuffle=shuffle, streams=streams)
    samples = order.samples(epoch, np.arange(len(order)))
    assert sorted(samples) == list(range(sum(rows)))


def test_unshuffled_is_the_stored_order():
    order = Order(ROWS, shuffle=0)
    assert order.samples(3, np.arange(len(order))).tolist() == list(range(len(order)))


@pytest.mark.parametrize("shuffle", [10, "full"])
def test_a_position_does_not_depend_on_what_is_asked_with_it(shuffle):
    order = Order(ROWS, shuffle=shuffle)
    whole = order.samples(1, np.arange(len(order)))
    fresh = Order(ROWS, shuffle=shuffle)
    one_by_one = [int(fresh.samples(1, np.array([p]))[0]) for p in (63, 0, 17, 62)]
    assert one_by_one == [int(whole[p]) for p in (63, 0, 17, 62)]


@pytest.mark.parametrize("shuffle", [10, "full"])
def test_seed_and_epoch_are_not_interchangeable(shuffle):
    positions = np.arange(ROWS.sum())
    one = Order(ROWS, seed=1, shuffle=shuffle).samples(0, positions)
    other = Order(ROWS, seed=0, shuffle=shuffle).samples(1, positions)
    assert not np.array_equal(one, other)


def test_windows_grow_from_one_shard_until_they_hold_enough():
    ends = np.cumsum(np.full(20, 10))
    assert window_starts(ends, 0, 200, 60).tolist() == [0, 10, 30, 70, 130, 200]


def test_a_window_is_at_least_as_large_as_asked_and_whole_shards():
    ends = np.cumsum([30, 30, 30, 30, 30])
    assert window_starts(ends, 0, 150, 40).tolist() == [0, 30, 90, 150]


def test_a_rest_too_small_for_a_window_belongs_to_the_last():
    ends = np.cumsum(np.full(8, 250))
    assert window_starts(ends, 0, 2000, 1000).tolist() == [0, 250, 750, 2000]
    assert window_starts(np.array([160, 320]), 0, 320, 1000).tolist() == [0, 320]


def test_a_run_may_begin_and_end_within_a_shard():
    ends = np.cumsum([10, 10, 10])
    assert window_starts(ends, 5, 25, 10).tolist() == [5, 10, 25]


def test_the_first_window_reads_one_shard():
    order = Order(np.full(10, 100), shuffle=1000)
    first = order.samples(0, np.arange(100)) // 100
    assert len(set(first.tolist())) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000])
def test_a_bijection_sends_every_number_to_another(size):
    sent = bijection(np.arange(size), size, hash_key(3, 1))
    assert sorted(sent) == list(range(size))


def test_full_shuffles_evenly():
    """Each eighth of the epoch draws about an eighth of its samples from each eighth."""
    sent = bijection(np.arange(8000), 8000, hash_key(0, 0)).reshape(8, 1000) // 1000
    counts = np.array([np.bincount(part, minlength=8) for part in sent])
    assert counts.min() > 80
    assert counts.max() < 170


def test_orders_are_frozen():
    """States rely on them: change these numbers only with the state's version."""
    positions = np.arange(6)
    assert permutation(6, 7, 2).tolist() == FROZEN_PERMUTATION
    windows = Order(ROWS, seed=7, shuffle=10).samples(2, positions)
    assert windows.tolist() == FROZEN_WINDOWS
    full = Order(ROWS, seed=7, shuffle="full").samples(2, positions)
    assert full.tolist() == FROZEN_FULL
    streams = Order(ROWS, seed=7, shuffle=10, streams=2).samples(2, positions)
    assert streams.tolist() == FROZEN_STREAMS
    mixture = Mixture([Order(ROWS, seed=7), Order(ROWS, seed=7)], [2, 1])
    assert [part.tolist() for part in mixture.samples(2, positions)] == FROZEN_MIXTURE


def test_a_hundred_million_samples_are_planned_by_the_window():
    order = Order(np.full(100_000, 1000), shuffle=1000)
    samples = order.samples(0, np.arange(50_000_000, 50_000_016))
    assert len(set(samples.tolist())) == 16
    assert sum(window.nbytes for window in order._windows.values()) < 10**6


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(1, 300),
    batch_size=st.sampled_from([1, 16, 33]),
    nodes=st.integers(1, 3),
    local=st.integers(1, 3),
    streams=st.integers(1, 3),
    start=st.integers(0, 40),
)
def test_ranks_share_the_rest_of_an_epoch_once(total, batch_size, nodes, local, streams, start):
    """Also after resuming at a position that is no multiple of anything."""
    size, start, taken = nodes * local, min(start, total), []
    steps = step_count(
        total - start, batch_size=batch_size, world=World(size=size), drop_last=False
    )
    for step in range(steps):
        for rank in range(size):
            positions = step_positions(
                start + step * batch_size * size,
                total,
                batch_size=batch_size,
                world=World(rank, size, local),
                streams=streams,
            )
            assert len(positions) <= batch_size
            taken += positions.tolist()
    assert sorted(taken) == list(range(start, total))


def test_a_node_reads_the_stream_of_its_number():
    world = World(rank=3, size=4, local_size=2)  # the second rank of the second node
    positions = step_positions(0, 1000, batch_size=4, world=world, streams=2)
    assert positions.tolist() == [9, 11, 13, 15]


@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_node_keeps_its_stream_wherever_an_epoch_is_resumed(start):
    for node in range(3):
        world = World(rank=2 * node, size=6, local_size=2)
        taken = step_positions(start, 1000, batch_size=5, world=world, streams=3)
        assert set((taken % 3).tolist()) == {node}


def test_streams_keep_nodes_to_their_own_shards():
    rows = np.full(40, 25)
    order = Order(rows, shuffle=100, streams=2)
    positions = np.arange(len(order))
    shards = order.samples(0, positions) // 25
    per_node = [set(shards[positions % 2 == node].tolist()) for node in (0, 1)]
    assert len(per_node[0] & per_node[1]) <= 1
    assert sum(map(len, per_node)) <= 1.1 * 40


@pytest.mark.parametrize("streams", [16, 64])
def test_a_mixture_holds_its_shares_over_many_nodes(streams):
    orders = [Order(np.full(8, 1000), streams=streams) for _ in range(3)]
    mixture = Mixture(orders, [5, 3, 2])
    sources, _ = mixture.samples(0, np.arange(len(mixture)))
    for start in range(0, 20_000, 1000):
        found = np.bincount(sources[start : start + 1000], minlength=3) / 1000
        assert np.abs(found - [0.5, 0.3, 0.2]).max() <= 0.02


@settings(max_examples=20, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 10), min_size=2, max_size=4),
    streams=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
def test_a_mixture_holds_its_shares_in_every_thousand(weights, streams, epoch):
    orders = [Order(np.full(4, 500 + 100 * i), streams=streams) for i in range(len(weights))]
    mixture = Mixture(orders, weights)
    sources, _ = mixture.samples(epoch, np.arange(len(mixture)))
    shares = np.array(weights) / sum(weights)
    for start in range(0, len(mixture) - 1000, 500):
        found = np.bincount(sources[start : start + 1000], minlength=len(weights)) / 1000
        assert np.abs(found - shares).max() <= 0.02


def test_a_mixed_dataset_is_exhausted_before_a_sample_comes_again():
    small, large = Order(np.array([30])), Order(np.array([970]))
    mixture = Mixture([small, large], [1, 1])
    came = []
    for epoch in range(2):  # its own epochs run on across those of the mixture
        sources, samples = mixture.samples(epoch, np.arange(1000))
        came += samples[sources == 0].tolist()
    passes = [came[i : i + 30] for i in range(0, len(came), 30)]
    assert all(sorted(one) == list(range(30)) for one in passes[:-1])
    assert passes[0] != passes[1]


@pytest.mark.parametrize("bad", [{"seed": -1}, {"shuffle": -1}, {"shuffle": "all"}, {"streams": 0}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Order(ROWS, **bad)


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, float("nan")]])
def test_weights_must_be_positive(weights):
    with pytest.raises(ValueError, match="positive"):
        Mixture([Order(ROWS), Order(ROWS)], weights)


def test_the_world_is_found_in_the_order_of_the_contract():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    slurm = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}
    assert find_world(1, 2, environ=torchrun) == World(1, 2, 2)
    assert find_world(None, None, environ=torchrun, group=(0, 2)) == World(0, 2, 2)
    assert find_world(None, None, environ=torchrun | slurm) == World(3, 4, 2)
    assert find_world(None, None, environ=slurm) == World(1, 2, 2)
    batch_script = {"SLURM_NTASKS": "2"}  # of an allocation, but not inside srun
    assert find_world(None, None, environ=batch_script) == World()


def test_slurm_tells_of_nodes_only_where_it_tells_of_ranks():
    slurm = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_STEP_ID": "0", "SLURM_NNODES": "2"}
    assert find_world(None, None, environ=slurm) == World(9, 16, 8)
    spawned = {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "3"}
    assert find_world(None, None, environ=spawned, group=(3, 8)) == World(3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [((1, None), {}), ((None, 2), {}), ((2, 2), {}), ((None, None), {"WORLD_SIZE": "2"})],
)
def test_half_a_place_in_the_world_is_refused(arguments, environ):
    with pytest.raises(ValueError, match="rank"):
        find_world(*arguments, environ=environ)
