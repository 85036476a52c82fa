"""How the trainer's commands fail: one line for what a user can mend, a traceback for a bug."""

import logging
import pickle
import sys
import warnings
from collections.abc import Callable
from types import TracebackType

from lightning.fabric.utilities.exceptions import MisconfigurationException

from shards.commands import plain
from shards.errors import DataError
from trainer.memory import OutOfMemoryError

_OURS = ("loader", "shards", "trainer")
# What Lightning says that would only puzzle a reader.
_NOISE = (
    # The feed restores its position by way of the data module, which Lightning cannot see.
    ".*your dataloader is not resumable.*",
    # A folder that holds last.ckpt is where a resumed run belongs.
    "Checkpoint directory .* exists and is not empty.*",
    # A validation or test has none of the callbacks of the fit that wrote its checkpoint.
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
    # A resumed or validated run has a log folder of its own.
    "The dirpath has changed from .*",
    # Between libraries: Lightning's calls of torch and jsonargparse, main's of Lightning.
    ".*LeafSpec.* is deprecated.*",
    "(?s).*JsonargparseDeprecationWarning.*",
    r"(?s).*was\s+deprecated\s+in\s+v4.*",
    "LightningCLI's args parameter is intended.*",
    # Short epochs are logged per epoch anyway.
    "The number of training batches .* is smaller than the logging interval.*",
)
# What it logs, once or again and again, and nobody asked for.
_CHATTER = (
    "litlogger",  # an advertisement
    "`weights_only` was not set",
    "Loading `train_dataloader`",
    "TPU available",
    "Restor",  # said before, with the time of the checkpoint
)

_NO_CHECKPOINT = (
    "the checkpoint holds more than tensors and plain values, or is none; it is refused"
)


def run(action: Callable[[], object]) -> int:
    """Run a command; return 0, or 1 if data or arguments are at fault."""
    _quieten()
    try:
        action()
    except (DataError, OutOfMemoryError, MisconfigurationException) as error:
        return _fail(error)
    except pickle.UnpicklingError:  # which would say how to load it nevertheless
        return _fail(ValueError(_NO_CHECKPOINT))
    except (ValueError, ImportError) as error:  # a bug, or a library's, ends in a traceback
        if not raised_by_us(error.__traceback__):
            raise
        return _fail(error)
    return 0


def raised_by_us(trace: TracebackType | None) -> bool:
    """Whether the innermost frame of a traceback is code of these packages."""
    module = ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return module.partition(".")[0] in _OURS


def _quieten() -> None:
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addFilter(lambda record: not any(text in record.getMessage() for text in _CHATTER))


def _fail(error: Exception) -> int:
    print(plain(f"error: {error}"), file=sys.stderr)
    return 1
