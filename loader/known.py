"""Remembers what stays the same of a sample in every epoch, so that it is decoded once."""

import threading

from loader.example import Facts

_OBJECT_BYTES = 600  # of the objects around a sample's arrays


class KnownFacts:
    """Facts of samples by shard and row: as many as fit, those that came first.

    An epoch asks for each sample once, so letting the oldest go would let every one go just
    before it is asked for again.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._facts: dict[tuple[int, int], Facts] = {}
        self._free_bytes = limit_bytes
        self._lock = threading.Lock()

    def find(self, shard: int, row: int) -> Facts | None:
        return self._facts.get((shard, row))

    def keep(self, shard: int, row: int, facts: Facts) -> None:
        arrays = (array for array in (facts.midi, facts.labels) if array is not None)
        size = _OBJECT_BYTES + sum(array.nbytes for array in arrays)
        with self._lock:
            if size <= self._free_bytes and (shard, row) not in self._facts:
                self._free_bytes -= size
                self._facts[shard, row] = facts
