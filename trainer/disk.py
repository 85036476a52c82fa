"""A local disk that is full, or read-only for a while, costs a file and not the run."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loader.disk import nearest

log = logging.getLogger(__name__)


def try_writing(folder: Path) -> None:
    """Write something where a folder is to be; nothing stays.

    Raises:
        OSError: it cannot be written there.
    """
    with tempfile.NamedTemporaryFile(dir=nearest(folder)) as file:
        file.write(b"0")
        file.flush()


class Attempt:
    """How a write went.

    Attributes:
        failed: whether it could not be done.
    """

    failed = False


@contextmanager
def attempt(path: Path) -> Iterator[Attempt]:
    """Write something that training can go on without; where that fails, say so and go on."""
    this = Attempt()
    try:
        yield this
    except OSError as error:
        this.failed = True
        log.warning(
            "%s cannot be written: %s. Training goes on; make room there, or what follows the "
            "last checkpoint is lost if the run is killed",
            path,
            error,
        )
