"""Tells a file that is missing from a mount that is: below its mount point lies an empty folder."""

from collections.abc import Callable, Iterable
from errno import ENOTCONN
from pathlib import Path
from typing import TypeVar

from loader.patience import Pause, retry
from shards.mounts import file_system

Result = TypeVar("Result")


class Mounts:
    """The file systems that some folders lay on when it was made."""

    def __init__(self, folders: Iterable[Path | None]) -> None:
        self._kinds = {f: file_system(f) for f in dict.fromkeys(folders) if f is not None}

    def patiently(
        self, folder: Path | None, action: Callable[[], Result], url: str, *, pause: Pause
    ) -> Result:
        """Run an action on a file of a folder; a mount that is gone from there is waited for.

        Raises:
            FileNotFoundError: if the file is missing and the mount is there.
            FetchError: if the mount stays away for as long as ``retry`` tries.
        """

        def attempt() -> Result:
            try:
                return action()
            except FileNotFoundError as error:
                if folder is None or file_system(folder) == self._kinds[folder]:
                    raise
                raise OSError(ENOTCONN, "its file system was unmounted") from error

        return retry(attempt, url, pause=pause)
