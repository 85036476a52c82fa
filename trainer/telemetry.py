"""Whether data or the device is the bottleneck: what share of a step is spent waiting for data."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

PREFIX = "data/"
WAITING, RATE = f"{PREFIX}waiting", f"{PREFIX}samples_per_s"
_WINDOW = 20  # steps that the figures of a step are taken over: one alone jumps about


@dataclass(frozen=True, slots=True)
class StepTime:
    """One or several steps of training.

    Attributes:
        seconds: from the end of the step before to the end of this one.
        waited_s: of these, in which the loop was blocked in ``next()`` of the data.
    """

    seconds: float
    waited_s: float
    samples: int

    @property
    def waiting(self) -> float:
        """Share of the time that was waiting, in [0, 1]."""
        return min(1.0, self.waited_s / self.seconds) if self.seconds > 0 else 0.0

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds if self.seconds > 0 else 0.0


def together(steps: Iterable[StepTime]) -> StepTime:
    """All of some steps."""
    all_ = list(steps)
    return StepTime(
        sum(step.seconds for step in all_),
        sum(step.waited_s for step in all_),
        sum(step.samples for step in all_),
    )


class Telemetry(Callback):
    """Logs how fast training goes and how much of it is waiting, by step and by epoch.

    The pipeline itself times how long its ``next()`` blocks; this callback sets that against the
    clock. The first step of an epoch counts, with the time until its first batch; validation does
    not. On a GPU, which computes beside the loop, waiting is an upper bound of its idling.

    Attributes:
        last: the step that ended last.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.last = StepTime(0.0, 0.0, 0)
        self._clock = clock
        self._steps: deque[StepTime] = deque(maxlen=_WINDOW)
        self._epoch = self.last
        self._before: Mapping[str, Any] = {}
        self._began = self._paused = 0.0
        self._counts: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin here, too: a run that goes on within an epoch does not start one."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._before = self._clock(), _stats(trainer)
        self._epoch = StepTime(0.0, 0.0, 0)
        self._counts = _counts(self._before)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now, stats = self._clock(), _stats(trainer)
        self.last = StepTime(
            now - self._began,
            stats["wait_s"] - self._before["wait_s"],
            stats["samples"] - self._before["samples"],
        )
        self._began, self._before = now, stats
        self._steps.append(self.last)
        self._epoch = together((self._epoch, self.last))
        recent = together(self._steps)
        # Of this rank alone: a mean over ranks would make each step wait for all of them.
        pl_module.log_dict(
            {WAITING: recent.waiting, RATE: recent.samples_per_s},
            prog_bar=True,
            on_step=True,
            on_epoch=False,
            batch_size=1,
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = self._clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take validation within an epoch out of its next step."""
        self._began += self._clock() - self._paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = {
            f"{PREFIX}epoch_waiting": self._epoch.waiting,
            f"{PREFIX}epoch_samples_per_s": self._epoch.samples_per_s,
        }
        now = _counts(_stats(trainer))
        found |= {f"{PREFIX}{name}": now[name] - self._counts[name] for name in now}
        pl_module.log_dict(found, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)


class Bar(TQDMProgressBar):
    """Lightning's bar, with samples a second and the share of waiting in words."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)  # of a log folder that every run calls the same
        for name, label, form in ((RATE, "samples/s", "{:.0f}"), (WAITING, "waiting", "{:.1%}")):
            value = items.pop(name, None)
            if isinstance(value, int | float):
                items[label] = form.format(value)
        return items


def _stats(trainer: Trainer) -> Mapping[str, Any]:
    """What the pipeline of the training split counted."""
    stats: Mapping[str, Any] = trainer.datamodule.stats()  # type: ignore[attr-defined]
    return stats


def _counts(stats: Mapping[str, Any]) -> dict[str, float]:
    """What is told by epoch, beside the time."""
    return {
        "cache_hits": float(stats["cache_hits"]),
        "fetched_mb": stats["fetched_bytes"] / 1e6,
        "skipped": float(stats["skipped"]),
    }
