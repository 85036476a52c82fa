"""A pool of memory for batches: leased, and back when the last tensor over it is gone."""

import ctypes
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class BufferPool:
    """Arrays whose memory is used again, because fresh memory costs a page fault every 4 KiB.

    A lease ends when nothing refers to its memory any more: not the array, not a view of it, not
    a tensor made of it. Who keeps every batch keeps correct data; the pool then grows.
    """

    def __init__(self, keep: int) -> None:
        """Make an empty pool that keeps up to ``keep`` free blocks of each size."""
        self._keep = keep
        self._free: dict[int, deque[NDArray[np.uint8]]] = {}

    def lease(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of undefined content."""
        item = np.dtype(dtype)
        size = int(np.prod(shape)) * item.itemsize
        free = self._free.setdefault(size, deque())
        try:
            block = free.popleft()
        except IndexError:
            block = np.empty(max(size, 1), dtype=np.uint8)
        # the ctypes array is what every view of the lease refers to, and nothing else does
        lease = (ctypes.c_char * size).from_address(block.ctypes.data)
        weakref.finalize(lease, self._give_back, block, free).atexit = False
        array: NDArray[Any] = np.ndarray(shape, dtype=item, buffer=memoryview(lease))
        return array

    def _give_back(self, block: NDArray[np.uint8], free: deque[NDArray[np.uint8]]) -> None:
        if len(free) < self._keep:
            free.append(block)
