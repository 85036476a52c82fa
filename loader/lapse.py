"""What to do while the cache cannot be written: leave it alone for a while, and say so once."""

import logging
import time

from loader.patience import PATIENCE
from shards.errors import CacheError

log = logging.getLogger(__name__)


class Lapse:
    """Whether the cache is left alone; shards are read where they lie meanwhile."""

    def __init__(self) -> None:
        self._until, self._told = 0.0, False

    @property
    def lasts(self) -> bool:
        """Whether nothing should be put into the cache now."""
        return time.monotonic() < self._until

    def begin(self, error: CacheError) -> None:
        """Note that something could not be written; a lapse that lasts is not prolonged."""
        if self.lasts:
            return
        self._until = time.monotonic() + PATIENCE.lapse_s
        if not self._told:
            self._told = True
            log.warning("%s; meanwhile shards are read where they lie, again every epoch", error)
