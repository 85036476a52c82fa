"""Tars that are read where they lie, by ranges, behind a URL."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from loader.patience import retry, within
from loader.transfer import open_url, read_url
from shards.errors import FetchError, ShardError
from shards.manifest import require_size
from shards.reader import ShardReader

_SMALL_BYTES = 4096  # so small a read is a header's, and what lies behind it is read along
_SPAN_BYTES = 16 << 10
_AT_ONCE_BYTES = 1 << 20  # a sample of up to this size takes less time than asking for it in parts
_KEPT_BYTES = 64 << 20  # of what was expected and is not forgotten yet
_THROUGH_THE_CACHE = 'stream it through the cache: cache="raw"'


class RemoteFile:
    """A file behind a URL, read by ranges, of which the last ones are kept a while."""

    def __init__(
        self,
        url: str,
        *,
        size: int | None,
        storage_options: dict[str, Any],
        pause: Callable[[float], object],
        count: Callable[[int], None],
    ) -> None:
        """Ask for nothing but the size.

        Args:
            size: what the manifest says; None where nothing does.
            pause: waits some seconds between attempts; may raise StoppedError.
            count: told the bytes that came.

        Raises:
            FileNotFoundError: if there is no such file.
            FetchError: if it cannot be reached, or its server does not tell its size.
            ShardError: if it has another size.
        """
        self.name, self.inode = url, 0
        self._fs, self._path = open_url(url, storage_options)
        self.pause, self._count = pause, count
        found = self._retried(lambda: self._fs.size(self._path), 0)
        if found is None:
            raise FetchError(f"{url}: the server does not tell its size; {_THROUGH_THE_CACHE}")
        require_size(url, int(found), size)
        self.size = int(found)
        self._kept: OrderedDict[int, bytes] = OrderedDict()  # by where they begin
        self._lock = threading.Lock()

    def expect(self, start: int, stop: int) -> None:
        """Get what will be read soon, in one request, unless parts of it may not be wanted."""
        if stop - start <= _AT_ONCE_BYTES and self._find(start, stop) is None:
            self._keep(start, self._fetch(start, stop))

    def forget(self, start: int) -> None:
        with self._lock:
            self._kept.pop(start, None)

    def read_at(self, offset: int, size: int) -> bytes:
        stop = min(offset + size, self.size)
        if stop <= offset:
            return b""
        if (found := self._find(offset, stop)) is not None:
            return found
        if size > _SMALL_BYTES:
            return self._fetch(offset, stop)
        data = self._fetch(offset, min(offset + _SPAN_BYTES, self.size))
        self._keep(offset, data)
        return data[: stop - offset]

    def read_into(self, buffer: memoryview, offset: int) -> int:
        data = self.read_at(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        with self._lock:
            self._kept.clear()

    def _find(self, start: int, stop: int) -> bytes | None:
        with self._lock:
            for begin, data in self._kept.items():
                if begin <= start and stop <= begin + len(data):
                    return data[start - begin : stop - begin]
        return None

    def _keep(self, start: int, data: bytes) -> None:
        with self._lock:
            self._kept[start] = data
            while sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)

    def _fetch(self, start: int, stop: int) -> bytes:
        try:
            data = self._retried(
                lambda: self._fs.cat_file(self._path, start=start, end=stop), stop - start
            )
        except FileNotFoundError:
            raise FetchError(f"{self.name}: the shard is not there any more") from None
        self._count(len(data))
        if len(data) > stop - start:
            raise FetchError(f"{self.name}: the server sends no parts; {_THROUGH_THE_CACHE}")
        if len(data) < stop - start:
            raise ShardError(f"{self.name}: truncated at byte {start + len(data)}; copy it anew")
        return bytes(data)

    def _retried(self, action: Callable[[], Any], size: int) -> Any:
        watched = partial(within, action, size=size, pause=self.pause)
        return retry(watched, self.name, pause=self.pause)


def open_remote(file: RemoteFile, *, samples: int | None, options: dict[str, Any]) -> ShardReader:
    """A reader of a remote tar, by its index if it has one; else its headers are read.

    Raises:
        ShardError: if the tar or its index is damaged.
        FetchError: if it cannot be reached.
    """
    index = None
    if samples is not None:
        with suppress(FileNotFoundError):
            index = read_url(f"{file.name}.idx", options, pause=file.pause)
    try:
        return ShardReader(file, samples=samples, index=index)
    except ShardError:
        if index is None:
            raise
        return ShardReader(file, samples=samples)
