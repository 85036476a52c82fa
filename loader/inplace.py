"""Which shards are read where they lie: those on a disk of this machine."""

from collections.abc import Callable
from functools import cache as memoize
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loader.catalog import Catalog, Folder
from loader.order import Positions
from shards.mounts import is_local


def read_in_place(shards: Catalog, mount: bool | None) -> NDArray[np.bool_]:
    """(S,) which need no cache: files of this machine, on a disk unless ``mount`` decides."""

    @memoize
    def is_here(folder: Path) -> bool:
        return is_local(folder) if mount is None else not mount

    runs = [_in_place(folder, shards.numbers[run], is_here) for folder, run in shards.runs()]
    return np.concatenate(runs or [np.empty(0, np.bool_)])


def _in_place(
    folder: Folder, numbers: Positions, is_here: Callable[[Path], bool]
) -> NDArray[np.bool_]:
    """Which of a folder's shards lie where ``is_here`` holds; folders below it may be mounts."""
    if folder.local is None:
        return np.zeros(len(numbers), np.bool_)
    urls = folder.infos.urls
    if not np.any(urls.text == ord("/")):
        return np.full(len(numbers), is_here(folder.local))
    below = [urls[number].rpartition("/")[0] for number in numbers.tolist()]
    here = {name: is_here(folder.local / name) for name in set(below)}
    return np.array([here[name] for name in below], np.bool_)
