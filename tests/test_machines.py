"""Order, resuming and cache as machines: any steps in any order, against a simple model of each."""

import json
import os
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path

import corpus
import numpy as np
import pytest
from faultfs import FaultFileSystem
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from loader import make_pipeline
from loader.cache import ShardCache
from shards.errors import FetchError

SAMPLES = 24
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "6"))
STEPS = int(os.environ.get("MACHINE_STEPS", "12"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    derandomize="MACHINE_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """24 short samples in some eight shards."""
    folder = tmp_path_factory.mktemp("machines")
    return corpus.make_dataset(folder, samples=SAMPLES, shard_samples=3, seconds=0.1, midi=False)


class Training(RuleBasedStateMachine):
    """All ranks of a training, step by step, that is stopped, moved and damaged at will.

    The model is a bag of keys: over all ranks an epoch delivers each key once, and each sample's
    audio is what it was when it was packed.
    """

    packed: Path
    truth: dict[str, bytes]
    limit: int

    def __init__(self) -> None:
        super().__init__()
        FaultFileSystem.reset()
        self.folder = Path(tempfile.mkdtemp())
        self.delivered: Counter[str] = Counter()
        self.epoch = 0
        self.state: dict | None = None
        self.pipes: list = []
        self.walks: list = []

    @initialize(shuffle=st.sampled_from([0, 5, 12, "full"]), seed=st.integers(0, 3))
    def start(self, shuffle, seed):
        self.options = {"shuffle": shuffle, "seed": seed}
        self.open(world=2, batch=3, workers=0, cache="raw")

    def open(self, *, world, batch, workers, cache):
        """All ranks anew, at the state where they stopped."""
        self.shape = {"world": world, "batch": batch, "workers": workers, "cache": cache}
        limit = {"cache_bytes": self.limit if cache == "raw" else 10**8}
        self.limited = cache == "raw"
        shared = {"cache": cache, "cache_dir": self.folder / cache, **limit, **self.options}
        self.pipes = [
            make_pipeline(
                f"fault://{self.packed}",
                rank=rank,
                world_size=world,
                batch_size=batch,
                num_workers=workers,
                prefetch=1,
                drop_last=False,
                sample_rate=corpus.SAMPLE_RATE,
                clip_seconds=0.1,
                audio_dtype="int16",
                **shared,
            )
            for rank in range(world)
        ]
        if self.state is not None:
            for pipe in self.pipes:
                pipe.load_state_dict(json.loads(json.dumps(self.state)))
        self.walks = [iter(pipe) for pipe in self.pipes]

    @rule(steps=st.integers(1, 4))
    def step(self, steps):
        """Every rank takes a batch, as training has it."""
        for _ in range(steps):
            try:
                batches = [next(walk, None) for walk in self.walks]
            except FetchError:  # damaged twice in a row: a training goes on from its state
                self.move(**self.shape, tidy=True)
                return
            assert len({batch is None for batch in batches}) == 1, "ranks end together"
            if batches[0] is None:
                self.walks = [iter(pipe) for pipe in self.pipes]
                return
            for batch in batches:
                self.take(batch)
            states = [pipe.state_dict() for pipe in self.pipes]
            assert all(state == states[0] for state in states)
            self.state = states[0]
            if self.state["epoch"] > self.epoch:
                self.end_epoch()

    def take(self, batch):
        for row, key in enumerate(batch["__key__"]):
            if batch["weight"][row]:
                self.delivered[key] += 1
                assert batch["audio"][row].numpy().tobytes() == self.truth[key]

    def end_epoch(self):
        assert self.delivered == Counter(dict.fromkeys(self.truth, 1))
        self.delivered.clear()
        self.epoch += 1

    @rule(
        world=st.integers(1, 3),
        batch=st.integers(1, 5),
        workers=st.integers(0, 2),
        cache=st.sampled_from(["raw", "decoded", "off"]),
        tidy=st.booleans(),
    )
    def move(self, world, batch, workers, cache, tidy):
        """The processes go, politely or not, and others take over on other machines."""
        FaultFileSystem.spoil.clear()
        if tidy:
            for pipe in self.pipes:
                pipe.close()
        self.pipes, self.walks = [], []
        self.open(world=world, batch=batch, workers=workers, cache=cache)

    @rule(number=st.integers(0, 99))
    def evict(self, number):
        """Somebody makes room: a cached file goes, with its index."""
        if (path := self.cached(number)) is not None:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".idx").unlink(missing_ok=True)

    @rule(number=st.integers(0, 99), keep=st.integers(0, 3000))
    def cut(self, number, keep):
        """A cached file is cut off, as by a full disk; it is replaced, as readers may hold it."""
        if (path := self.cached(number)) is not None:
            data = path.read_bytes()
            draft = path.with_suffix(".draft")
            draft.write_bytes(data[: min(keep, len(data) - 1)])
            os.replace(draft, path)

    @rule(number=st.integers(0, 99), size=st.integers(0, 4000))
    def crash_while_fetching(self, number, size):
        """A process that was killed leaves a part behind, with anything in it."""
        if (path := self.cached(number)) is not None:
            total = path.stat().st_size
            path.with_name(f"{path.name}.{total}.part").write_bytes(bytes(min(size, total)))
            path.unlink()

    @rule(count=st.integers(1, 3))
    def spoil_transfers(self, count):
        """The next reads of some shards come with a flipped bit."""
        names = sorted(path.name for path in self.packed.glob("*.tar"))
        FaultFileSystem.spoil |= set(names[:count])

    @precondition(lambda self: self.pipes)
    @invariant()
    def the_cache_holds_its_limit(self):
        if self.limited:
            held = sum(p.stat().st_size for p in (self.folder / "raw").glob("*/*.tar"))
            assert held <= self.limit

    def cached(self, number) -> Path | None:
        found = sorted(self.folder.glob("*/*/*.tar"))
        return found[number % len(found)] if found else None

    def teardown(self):
        for pipe in self.pipes:
            pipe.close()
        FaultFileSystem.reset()
        # those that went without a word may write for another moment
        shutil.rmtree(self.folder, ignore_errors=True)


def test_training_delivers_every_sample_once_whatever_happens(packed):
    truth = {}
    options = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 0.1, "audio_dtype": "int16"}
    with make_pipeline(packed, shuffle=0, drop_last=False, **options) as pipe:
        for batch in pipe:
            for row, key in enumerate(batch["__key__"]):
                if batch["weight"][row]:
                    truth[key] = batch["audio"][row].numpy().tobytes()
    assert len(truth) == SAMPLES
    sizes = [path.stat().st_size for path in packed.glob("*.tar")]
    Training.packed, Training.truth, Training.limit = packed, truth, sum(sizes)
    run_state_machine_as_test(Training, settings=SETTINGS)


class Cache(RuleBasedStateMachine):
    """A cache that two processes share: files, pins and room, against a set of names."""

    SIZES = (100, 200, 300, 400, 500)
    LIMIT = 1000

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "set").mkdir()
        self.caches = [ShardCache(self.folder, self.LIMIT) for _ in range(2)]
        self.pins: dict[int, list] = {}
        self.stop = threading.Event()

    @rule(which=st.integers(0, 1), number=st.integers(0, 4), hold=st.booleans())
    def fetch(self, which, number, hold):
        pinned = sum(self.SIZES[n] for n in self.pins)
        if number not in self.pins and pinned + self.SIZES[number] > self.LIMIT:
            return  # all of it would be in use, which is allowed to outgrow the limit
        pin, there = self.caches[which].acquire(
            self.name(number),
            lambda path: self.make(number, path),
            need_bytes=self.SIZES[number],
            stop=self.stop,
        )
        assert pin.path.read_bytes() == bytes([number]) * self.SIZES[number]
        assert there or number not in self.pins
        if hold:
            self.pins.setdefault(number, []).append(pin)
        else:
            pin.release()

    @rule(which=st.integers(0, 1), number=st.integers(0, 4))
    def fail(self, which, number):
        """A fetch that breaks off leaves its lock free, and no file."""
        if number in self.pins or sum(self.SIZES[n] for n in self.pins) + 500 > self.LIMIT:
            return
        (self.folder / self.name(number)).unlink(missing_ok=True)
        with pytest.raises(OSError, match="broken off"):
            self.caches[which].acquire(
                self.name(number), self.break_off, need_bytes=self.SIZES[number], stop=self.stop
            )
        assert not (self.folder / self.name(number)).exists()

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def release(self, data):
        number = data.draw(st.sampled_from(sorted(self.pins)))
        self.pins[number].pop().release()
        if not self.pins[number]:
            del self.pins[number]

    @rule(which=st.integers(0, 1), number=st.integers(0, 4))
    def remove(self, which, number):
        """What is in use stays, whoever wants it away."""
        if number in self.pins:
            return
        self.caches[which].remove(self.name(number), stop=self.stop)
        assert not (self.folder / self.name(number)).exists()

    @rule(which=st.integers(0, 1))
    def restart(self, which):
        """A process goes, and another opens the folder."""
        self.caches[which] = ShardCache(self.folder, self.LIMIT)

    @invariant()
    def what_is_pinned_is_there_and_all_within_the_limit(self):
        for number in self.pins:
            assert (self.folder / self.name(number)).exists()
        held = [path.stat().st_size for path in self.folder.glob("*/*.tar")]
        assert sum(held) <= self.LIMIT

    @staticmethod
    def name(number: int) -> str:
        return f"set/{number}.tar"

    def make(self, number: int, path: Path) -> None:
        draft = path.with_name(f"{path.name}.{self.SIZES[number]}.part")
        draft.write_bytes(bytes([number]) * self.SIZES[number])
        os.replace(draft, path)

    @staticmethod
    def break_off(path: Path) -> None:
        raise OSError("broken off")

    def teardown(self):
        for pins in self.pins.values():
            for pin in pins:
                pin.release()
        shutil.rmtree(self.folder)


def test_a_cache_keeps_what_is_pinned_and_its_limit():
    more = settings(SETTINGS, max_examples=5 * EXAMPLES, stateful_step_count=3 * STEPS)
    run_state_machine_as_test(Cache, settings=more)


class Order(RuleBasedStateMachine):
    """Positions of an epoch read in any pieces, by any number of ranks, from any position on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[int] = Counter()
        self.position = self.epoch = 0

    @initialize(
        rows=st.lists(st.integers(1, 9), min_size=1, max_size=6),
        shuffle=st.sampled_from([0, 1, 4, 100, "full"]),
        seed=st.integers(0, 2**31),
        streams=st.integers(1, 3),
    )
    def start(self, rows, shuffle, seed, streams):
        self.arguments = {"seed": seed, "shuffle": shuffle, "streams": streams}
        self.rows = np.array(rows, dtype=np.int64)
        self.order = self.fresh()

    def fresh(self):
        from loader.order import Order as Sequence

        return Sequence(self.rows, **self.arguments)

    @rule(count=st.integers(1, 12))
    def read(self, count):
        total = int(self.rows.sum())
        positions = np.arange(self.position, min(self.position + count, total))
        samples = self.order.samples(self.epoch, positions)
        again = self.fresh().samples(self.epoch, positions[::-1])[::-1]
        assert samples.tolist() == again.tolist()
        self.seen.update(samples.tolist())
        self.position += len(positions)
        if self.position == total:
            assert self.seen == Counter(dict.fromkeys(range(total), 1))
            self.seen.clear()
            self.position, self.epoch = 0, self.epoch + 1

    @rule()
    def restart(self):
        """What is computed from seed, epoch and position needs no memory of what came before."""
        self.order = self.fresh()


def test_an_order_read_in_any_pieces_is_one_permutation():
    more = settings(SETTINGS, max_examples=5 * EXAMPLES, stateful_step_count=2 * STEPS)
    run_state_machine_as_test(Order, settings=more)
