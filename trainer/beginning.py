"""Where a fit begins, in words: anew, from a checkpoint, or nowhere, for it is finished."""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trainer.folder import RunFolder


def beginning(asked: Any, folder: RunFolder) -> str:
    """Where the run in a folder begins.

    Args:
        asked: the parsed config of the fit, with the checkpoint that it goes on from.
    """
    checkpoint, state = asked.ckpt_path, folder.state()
    if checkpoint is None:
        return "a new run"
    if state and (told := _finished(asked, state, earlier=folder.config() or {})):
        return f"finished {told} to go on, or begin anew with --fresh"
    when = datetime.fromtimestamp(os.path.getmtime(checkpoint))
    return f"goes on from {checkpoint} of {when:%Y-%m-%d %H:%M}"


def _finished(asked: Any, state: Mapping[str, Any], *, earlier: Mapping[str, Any]) -> str:
    """When a run ended that has nothing left to do, and what would let it go on.

    Args:
        state: of the run, as it was left.
        earlier: the config that it was left with.
    """
    patience, before = asked.early_stopping, earlier.get("early_stopping")
    epochs, steps = state["epochs"], state["step"]
    if state["ended"] and patience is not None and patience <= (before or patience):
        return f"early, after {epochs} epochs; leave --early_stopping out or raise it"
    if 0 <= (asked.trainer.max_epochs or -1) <= epochs:
        return f"after {epochs} epochs; raise --trainer.max_epochs"
    if 0 <= asked.trainer.max_steps <= steps:
        return f"after {steps} steps; raise --trainer.max_steps"
    return ""
