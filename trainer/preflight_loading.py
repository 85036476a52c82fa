"""Is data loaded as fast as a run needs it?"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from loader.finding import Finding
from loader.machine import free_memory
from trainer.data import PianoData, batches_ahead
from trainer.models import Batch
from trainer.plan import Plan

TARGET_S = 0.5  # a batch: a slow step of a T4 hides that much
_MEASURED_S = 6.0
_MEASURED_BATCHES = 40
_FLOAT_BYTES, _TOKENS = 4, 8 * 8  # of an audio sample, of a note
_SPARE = 2  # batches beyond those ahead: one is trained on, one is being let go


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading was like.

    Attributes:
        first_s: to the first batch.
        batch_s: between batches after it.
        steps: batches of an epoch.
        batch: the last one.
    """

    first_s: float
    batch_s: float
    steps: int
    batch: Batch


def load(plan: Plan) -> Loaded:
    """Stream the training split for some seconds, exactly as training would.

    Raises:
        ValueError: an argument does not fit the data.
        DataError: they cannot be read.
    """
    data = PianoData(**plan.data)
    data.setup("fit")
    try:
        feed = data.train_dataloader()
        steps = len(feed)
        began = time.perf_counter()
        batches = islice(iter(feed), _MEASURED_BATCHES)
        batch = dict(next(batches))
        first = last = time.perf_counter()
        count = 0
        for following in batches:
            batch, count, last = following, count + 1, time.perf_counter()
            if last - began > _MEASURED_S:
                break
        batch_s = (last - first) / count if count else first - began
        return Loaded(first - began, batch_s, steps, batch)
    finally:
        data.teardown("fit")


def check_room(plan: Plan, *, free_bytes: int | None = None) -> Iterator[Finding]:
    """Whether the batches that are decoded ahead fit into memory."""
    free = free_memory() if free_bytes is None else free_bytes
    needed = batch_bytes(plan, plan.batch_size) * (batches_ahead(plan.data) + _SPARE)
    text = f"batches ahead take {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free"
    if not free or needed < 0.8 * free:
        return
    fitting = max(1, int(plan.batch_size * 0.5 * free / needed))
    yield Finding("fail", "memory", text, f"--data.batch_size {fitting}, or --data.prefetch 1")


def judge_loading(loaded: Loaded, plan: Plan) -> Finding:
    """Seconds a batch against the target."""
    text = (
        f"{loaded.batch_s:.3f} s a batch of {plan.batch_size} (target {TARGET_S:g}), the first "
        f"after {loaded.first_s:.1f} s; {loaded.steps} batches an epoch"
    )
    if loaded.batch_s <= TARGET_S:
        return Finding("ok", "loading", text)
    url = plan.url("train")
    remedy = f"python -m loader stage {url} --cache-dir {plan.cache_dir}, then --data.cache decoded"
    return Finding("warn", "loading", text, remedy)


def batch_bytes(plan: Plan, rows: int) -> int:
    """Bytes of a batch, about; of whole recordings, as if they had a minute."""
    seconds = plan.data["clip_seconds"] or 60.0
    audio = seconds * plan.data["sample_rate"] * _FLOAT_BYTES if plan.hears else 0.0
    notes = plan.data["max_notes"] * _TOKENS if plan.mode != "audio" else 0
    return round(rows * (audio + notes))
