"""A pool of memory for batches: leased, and back when the last tensor over it is gone."""

import ctypes
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

Block = NDArray[np.uint8]


class BufferPool:
    """Arrays whose memory is used again, because fresh memory costs a page fault every 4 KiB.

    A lease ends when nothing refers to its memory any more: not the array, not a view of it, not
    a tensor made of it. Who keeps every batch keeps correct data; the pool then grows.
    """

    def __init__(self, keep: int, *, pinned: bool = False) -> None:
        """Make an empty pool that keeps up to ``keep`` free blocks, the last ones used.

        Args:
            pinned: memory that a GPU can read by itself; it stays pinned while the pool has it.
        """
        self._pinned = pinned
        self._free: deque[Block] = deque(maxlen=keep)
        # A lease may end anywhere, also within ``lease`` when it triggers garbage collection, so
        # ending one takes no lock; and it runs no Python, in which Ctrl-C would be lost.
        self._leased: dict[int, tuple[weakref.ref[Any], Block]] = {}  # by the id of the former
        self._returned: deque[weakref.ref[Any]] = deque()
        self._lock = threading.Lock()

    def lease(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of undefined content."""
        item = np.dtype(dtype)
        size = int(np.prod(shape)) * item.itemsize
        with self._lock:
            block = self._take(size)
        # the ctypes array is what every view of the lease refers to, and nothing else does
        lease = (ctypes.c_char * size).from_buffer(block.data)
        ended = weakref.ref(lease, self._returned.append)
        self._leased[id(ended)] = ended, block
        array: NDArray[Any] = np.ndarray(shape, dtype=item, buffer=memoryview(lease))
        return array

    def _take(self, size: int) -> Block:
        """A free block that is large enough but not far too large, or a new one."""
        while self._returned:
            self._free.append(self._leased.pop(id(self._returned.popleft()))[1])
        for number in range(len(self._free) - 1, -1, -1):  # the last one is in the caches yet
            block = self._free[number]
            if size <= len(block) <= size + size // 4:
                del self._free[number]
                return block
        if not self._pinned:
            return np.empty(max(size, 1), dtype=np.uint8)
        pinned: Block = torch.empty(max(size, 1), dtype=torch.uint8, pin_memory=True).numpy()
        return pinned
