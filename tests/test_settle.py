"""num_workers="auto" settles on the number of threads that gives most batches a second."""

import threading
import time

import corpus
import pytest

from loader import make_pipeline
from loader.settle import Settling

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 2}


def settle(rate_of, *, cores: int = 4, waiting: float = 0.9) -> tuple[Settling, list[int]]:
    """Feed batches at the rate of the number tried; which numbers were tried."""
    settling, tried = Settling(cores), []
    for _ in range(5000):
        if settling.settled:
            break
        tried.append(settling.number)
        seconds = 1 / rate_of(settling.number)
        settling.observe(seconds=seconds, waited_s=waiting * seconds, disturbed=False)
    return settling, sorted(set(tried))


@pytest.mark.parametrize(
    ("rate_of", "best"),
    [
        (lambda number: 100 * min(number, 4), 4),  # bound by the cores
        (lambda number: 100 * number, 8),  # each waits for the disk
        (lambda number: 400 / number, 1),  # they stand in each other's way
        (lambda number: 100.0, 2),  # all the same: fewer are better, of those that were tried
    ],
)
def test_the_best_number_is_found(rate_of, best):
    settling, _ = settle(rate_of)
    assert settling.settled
    assert settling.number == best


def test_one_core_is_enough_to_begin_with():
    settling, tried = settle(lambda number: 100.0, cores=1)
    assert settling.number == 1
    assert tried == [1, 2]


def test_nothing_is_tried_while_the_consumer_sets_the_pace():
    settling, tried = settle(lambda number: 100.0, waiting=0.01)
    assert tried == [4]
    assert not settling.settled


def test_nothing_is_learnt_while_shards_are_fetched():
    settling = Settling(4)
    for _ in range(5000):
        settling.observe(seconds=0.1, waited_s=0.1, disturbed=True)
    assert settling.number == 4


def test_batches_come_in_the_same_order_whatever_the_number(dataset):
    def keys(workers):
        with make_pipeline(dataset, num_workers=workers, **SMALL) as pipe:
            found = [batch["__key__"] for _ in range(3) for batch in pipe]
            return found, pipe.stats()["num_workers"]

    (auto, number), (plain, none) = keys("auto"), keys(0)
    assert auto == plain
    assert number >= 1
    assert none == 0


def test_every_thread_has_work_however_few_batches_are_to_be_ahead(dataset):
    together = threading.Barrier(6)

    def transform(sample):
        together.wait(timeout=20)
        return sample

    options = {**SMALL, "batch_size": 1, "fields": ("labels",), "transform": transform}
    with make_pipeline(dataset, num_workers=6, prefetch=1, **options) as pipe:
        next(iter(pipe))
        assert not together.broken
        together.abort()


def test_only_so_many_decode_at_a_time_and_the_oldest_first():
    from loader.threads import Threads

    threads, running, most, begun = Threads(4), 0, 0, []
    lock = threading.Lock()

    def task(number: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            begun.append(number)
        time.sleep(0.002)
        with lock:
            running -= 1

    threads.limit(2)
    futures = [threads.submit(task, number) for number in range(40)]
    for future in futures:
        future.result(timeout=20)
    assert most <= 2
    assert max(abs(place - number) for place, number in enumerate(begun)) <= 1
    threads.join()


def test_stopping_ends_who_waits_for_a_batch():
    from loader.threads import Threads

    threads, hold = Threads(1), threading.Event()
    threads.submit(hold.wait, 20)
    waiting = threads.submit(print)
    threads.stop()
    assert waiting.cancelled()
    hold.set()
    threads.join()
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(print)
