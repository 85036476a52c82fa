"""What a run is going to do, as its config says it: read, but nothing of it opened or built."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from loader.cache import default_folder
from trainer.models import Mode
from trainer.options import add_run_options, add_sections, link

_SECTIONS = ("data", "model", "trainer")
# How the parser says that there is no such key.
_UNKNOWN = re.compile(r"(?:unrecognized arguments: --|does not accept option ')([\w.]+)", re.I)


class PlanError(ValueError):
    """A config that cannot be read: it names the key; ``remedy`` is what mends it."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Plan:
    """The sections of a config, every default filled in.

    Attributes:
        folder: of the run.
    """

    mode: Mode
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    trainer: Mapping[str, Any]
    folder: Path

    @property
    def root(self) -> str:
        """URL of the folder above the splits."""
        return str(self.data["shards"]).rstrip("/")

    @property
    def storage_options(self) -> dict[str, Any] | None:
        options: dict[str, Any] | None = self.data["storage_options"]
        return options

    @property
    def cache_dir(self) -> Path:
        return Path(self.data["cache_dir"] or default_folder())

    @property
    def batch_size(self) -> int:
        return int(self.data["batch_size"])

    @property
    def hears(self) -> bool:
        """Whether the model takes audio."""
        return self.mode != "midi"

    def url(self, split: str) -> str:
        """Where a split lies."""
        if split == "val" and self.data["val_shards"]:
            return str(self.data["val_shards"])
        return f"{self.root}/{split}"


def plan_of(config: Mapping[str, Any], folder: Path) -> Plan:
    """The plan of a parsed config, and the folder of its run."""
    sections = {name: dict(config[name]) for name in _SECTIONS}
    return Plan(mode=config["mode"], folder=folder, **sections)


def explain(said: str) -> PlanError:
    """What a parser said before it gave up, in a line, and the key that was probably meant."""
    message = " ".join(said.rpartition("error: ")[2].split())
    remedy = "python -m trainer fit --config CONFIG --print_config  # all keys and their values"
    if found := _UNKNOWN.search(message):
        near = difflib.get_close_matches(found[1], known_keys(), n=1)
        if near:
            return PlanError(f"there is no key {found[1]}", remedy=f"write {near[0]} instead")
        return PlanError(f"there is no key {found[1]}", remedy=remedy)
    return PlanError(message, remedy=remedy)


def known_keys() -> list[str]:
    """Every key that a config may set, such as ``data.batch_size``."""
    parser = LightningArgumentParser()
    add_sections(parser)
    add_run_options(parser)
    link(parser)
    return list(parser.get_defaults().keys())
