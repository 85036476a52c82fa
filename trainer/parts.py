"""What in a folder is a run's: by these names it is found again, and taken away."""

import re

import yaml

from trainer import keylog
from trainer.checkpoint import BEST, FOLDER, LAST, PREVIOUS

CONFIG = "config.yaml"
STATE = "run.json"
FIGURES = "metrics.json"
REPORT = "report.html"
CARRIED = ".carried.json"
LOGS = "logs"

_PARTS = {
    "": {CONFIG, STATE, FIGURES, REPORT, CARRIED, keylog.NAME},
    FOLDER: {LAST, PREVIOUS, BEST},
    LOGS: {"hparams.yaml"},
}
_EVENTS = "events.out.tfevents."  # TensorBoard's, one more each time that a run goes on
_DRAFT = re.compile(r"\.(.+?)(\.\d+-\d+)?\.draft")


def is_part(name: str) -> bool:
    """Whether a file is a run's, or the draft of one; all else in its folder is somebody else's.

    Args:
        name: its path within the folder, parted by ``/``.
    """
    folder, _, file = name.rpartition("/")
    if draft := _DRAFT.fullmatch(file):
        file = draft[1]
    return file in _PARTS.get(folder, ()) or (folder == LOGS and file.startswith(_EVENTS))


def is_run(state: bytes | None, config: bytes | None) -> bool:
    """Whether ``run.json`` or ``config.yaml`` of a folder were written by a fit."""
    try:
        if "batches" in yaml.safe_load(state or b"{}"):
            return True
        return {"mode", "data", "trainer"} <= set(yaml.safe_load(config or b"{}"))
    except (yaml.YAMLError, TypeError):  # somebody else's
        return False
