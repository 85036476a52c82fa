"""Looks at a run before it begins: what would stop it or slow it down, and what mends that."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from loader.finding import Check, Finding, survive
from shards.errors import DataError
from trainer.data import label_statistics
from trainer.models import Statistics
from trainer.plan import Plan
from trainer.preflight_decoding import check_decoding
from trainer.preflight_loading import Loaded, check_room, judge_loading, load
from trainer.preflight_machine import check_device, check_disk, check_folder, check_torchaudio
from trainer.preflight_model import (
    build,
    check_models,
    check_step,
    made_up,
    parameters,
)
from trainer.preflight_shards import (
    Opened,
    check_labels,
    check_mode,
    check_shards,
    open_splits,
)

_PATIENCE_S = 120.0  # of what imports, opens a mount, or computes
WORDS = {"ok": "pass", "warn": "warn", "fail": "fail"}
_WIDTH = 14
_DOCTOR = "python -m loader doctor  # of this machine, its disks and mounts"
_LESS = "a smaller --data.batch_size, or again once the machine has less to do"


def examine(plan: Plan, *, short: bool = False) -> Iterator[Finding]:
    """Check after check, as their findings are asked for; none ends the others.

    Args:
        short: only what takes no time; nothing is decoded or trained.
    """
    look = _Look(plan)
    yield from _survive("run folder", lambda: check_folder(plan))
    yield from _survive("GPU", lambda: check_device(plan))
    yield from _survive("torchaudio", lambda: check_torchaudio(plan))
    yield from _survive("shards", look.shards)
    yield from _survive("memory", lambda: check_room(plan))
    if not short:
        yield from look.slowly()
    yield from _survive(
        "disk",
        lambda: check_disk(plan, look.opened, parameters=look.parameters),
    )


def require_fit(plan: Plan) -> None:
    """Print what is wrong with a run, as far as it shows at once.

    Raises:
        ValueError: something would make it fail.
    """
    found = [one for one in examine(plan, short=True) if one.state != "ok"]
    for finding in found:
        print(row(finding), file=sys.stderr, flush=True)
    if failures := [one for one in found if one.state == "fail"]:
        first = failures[0]
        raise ValueError(f"{first.text}: {first.remedy}; all checks: python -m trainer preflight")


def row(finding: Finding) -> str:
    """A finding as a row of the table, its remedy below it."""
    line = f"{WORDS[finding.state]}  {finding.subject:<{_WIDTH}} {finding.text}"
    return f"{line}\n      {'':<{_WIDTH}} -> {finding.remedy}" if finding.remedy else line


def _survive(subject: str, check: Check) -> list[Finding]:
    """What a check finds; where it breaks off or hangs, what to do about that, too."""
    remedy = _LESS if subject == "training step" else _DOCTOR
    return [
        replace(one, remedy=remedy) if one.state == "fail" and not one.remedy else one
        for one in survive(subject, check, patience_s=_PATIENCE_S)
    ]


class _Look:
    """What the checks find out, and the later ones go by.

    Attributes:
        readable: whether there are samples of what the mode takes.
        loadable: whether they also have the labels that are asked for.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.opened: dict[str, Opened] = {}
        self.statistics: Statistics = {}
        self.loaded: Loaded | None = None
        self.parameters = 0
        self.readable = self.loadable = False

    def shards(self) -> Iterator[Finding]:
        """Open the splits; the labels of the training one are what the model is to rate."""
        self.opened, troubles = open_splits(self.plan)
        yield from troubles
        yield from check_shards(self.plan, self.opened)
        yield from (wrong := list(check_mode(self.plan, self.opened)))
        yield from (labels := list(check_labels(self.plan, self.opened)))
        self.readable = "train" in self.opened and not wrong
        self.loadable = self.readable and not any(one.state == "fail" for one in labels)
        names = self.plan.data["dimensions"]
        if self.loadable:
            manifest = self.opened["train"].manifest
            self.statistics = label_statistics(
                manifest, dimensions=names or None, root=self.plan.root
            )
        else:  # so that the models can be looked at all the same
            self.statistics = {name: {"mean": 0.0, "std": 1.0} for name in names or ["rating"]}

    def slowly(self) -> Iterator[Finding]:
        """Decode, load, build and train; what cannot go on without data is left out."""
        plan = self.plan
        if self.readable:
            yield from _survive("samples", lambda: check_decoding(plan))
        models = _survive("models", lambda: check_models(plan, self.statistics))
        yield from models
        roomy = not list(check_room(plan))
        if self.loadable and roomy:
            yield from _survive("loading", self._load)
        if self.loadable and roomy and not any(finding.state == "fail" for finding in models):
            yield from _survive("training step", self._step)

    def _load(self) -> Iterator[Finding]:
        try:
            self.loaded = load(self.plan)
        except DataError as error:
            remedy = f"python -m packer verify {self.plan.url('train')}  # or: --data.on_error skip"
            yield Finding("fail", "loading", str(error), remedy)
        else:
            yield judge_loading(self.loaded, self.plan)

    def _step(self) -> Iterator[Finding]:
        plan, statistics, loaded = self.plan, self.statistics, self.loaded
        self.parameters = parameters(build(plan, plan.mode, statistics))
        batch = loaded.batch if loaded else made_up(plan, statistics, rows=2)
        yield from check_step(plan, statistics, batch, loaded=loaded)
