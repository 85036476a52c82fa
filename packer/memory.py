"""Memory of a worker process."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT_BYTES = 64 << 20
_LARGE_BYTES = 16 << 20  # more than an audio member in memory, or another buffer of a segment


def keep_freed() -> None:
    """Have this process keep memory that it frees, up to 64 MB, for what it allocates next.

    glibc returns freed pages to the system and asks for them again at the next buffer, or does
    not, as small changes of the order of allocations have it: up to a fifth of a segment's time.
    Other C libraries are left as they are.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
