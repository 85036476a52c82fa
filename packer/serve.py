"""Serves the page of a dataset to this machine's browser; samples are read as it asks for them."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from packer.portrait import playable
from packer.survey import found
from packer.view import Split, View, listed, page, to_json
from shards.errors import DataError

log = logging.getLogger("packer")

_MOST = 500  # samples of a list that are given at once
_DIGITS = 12  # of a number in a request
_Item = TypeVar("_Item")
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


def serve(
    url: str,
    *,
    port: int = 0,
    shards: int | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: bool = True,
) -> None:
    """Serve the page of a dataset until Ctrl-C; the log says where.

    Args:
        port: 0 takes any that is free.
        shards: as for ``View``.

    Raises:
        DataError: if there is no dataset, or it is damaged.
        OSError: if the port is taken.
    """
    with (
        View(url, shards=shards, storage_options=storage_options, progress=progress) as view,
        PageServer(view, port=port) as server,
        suppress(KeyboardInterrupt),
    ):
        log.info("%s shows %s; Ctrl-C ends it", server.url, url)
        server.serve_forever()


class PageServer(ThreadingHTTPServer):
    """A server on the loopback interface.

    ``/`` is the page, ``/samples`` a part of the list, ``/sample`` what is shown of one and
    ``/audio`` its audio, by range.
    """

    daemon_threads = True

    def __init__(self, view: View, *, port: int = 0) -> None:
        """Listen; ``serve_forever`` answers.

        Args:
            port: 0 takes any that is free.
        """
        self.view, self.about = view, view.about() | {"served": True}
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Refusal(Exception):  # noqa: N818, it is an answer
    """A request that is answered by a status alone."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        routes: dict[str, Callable[[dict[str, str]], None]] = {
            "/": self._page,
            "/samples": self._samples,
            "/sample": self._sample,
            "/audio": self._audio,
        }
        try:
            self._require_own_host()
            asked = _url(self.path)
            if asked.path not in routes:
                raise _Refusal(HTTPStatus.NOT_FOUND)
            routes[asked.path](dict(parse_qsl(asked.query)))
        except ConnectionError:  # whoever asked has gone
            self.close_connection = True
        except _Refusal as refusal:
            self._send(b"", "text/plain", status=refusal.status)
        except (DataError, OSError) as error:
            self._send(str(error).encode(), "text/plain", status=HTTPStatus.INTERNAL_SERVER_ERROR)

    def log_message(self, *args: object) -> None:
        """Nothing: the terminal shows where the page is."""

    def _require_own_host(self) -> None:
        """Refuse requests under another name, which a page of the web could send here."""
        host = re.sub(r":[0-9]+\Z", "", self.headers.get("Host", ""))
        if host not in ("127.0.0.1", "localhost"):
            raise _Refusal(HTTPStatus.FORBIDDEN)

    def _page(self, query: dict[str, str]) -> None:
        self._send("".join(page(self.server.about, iter(()))).encode(), "text/html; charset=utf-8")

    def _samples(self, query: dict[str, str]) -> None:
        split = self._split(query)
        numbers = list(found(split.entries, query.get("search", "")))
        start, count = _integer(query, "start"), min(_integer(query, "count"), _MOST)
        shown = [listed(split.entries[n], n) for n in islice(numbers, start, start + count)]
        self._send_json({"total": len(numbers), "samples": shown})

    def _sample(self, query: dict[str, str]) -> None:
        split, number = self._split(query), self._number(query)
        self._send_json(split.portrait(number))

    def _audio(self, query: dict[str, str]) -> None:
        split, number = self._split(query), self._number(query)
        audio = playable(split.shards.read(split.entries[number]))
        if audio is None:
            raise _Refusal(HTTPStatus.NOT_FOUND)
        data, kind = audio
        asked = self.headers.get("Range")
        span = _span(asked, len(data)) if asked else None
        if span is None:
            self._send(data, kind)
            return
        told = f"bytes {span.start}-{span.stop - 1}/{len(data)}"
        status = HTTPStatus.PARTIAL_CONTENT
        self._send(data[span.start : span.stop], kind, status=status, content_range=told)

    def _split(self, query: dict[str, str]) -> Split:
        return _item(self.server.view.splits, _integer(query, "split"))

    def _number(self, query: dict[str, str]) -> int:
        number = _integer(query, "number")
        _item(self._split(query).entries, number)
        return number

    def _send_json(self, value: Any) -> None:
        self._send(to_json(value).encode(), "application/json")

    def _send(
        self,
        data: bytes,
        kind: str,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        content_range: str | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in _headers(kind, len(data), content_range):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _headers(kind: str, size: int, content_range: str | None) -> Iterator[tuple[str, str]]:
    yield "Content-Type", kind
    yield "Content-Length", str(size)
    yield "Accept-Ranges", "bytes"
    yield "Cache-Control", "no-store"
    yield "X-Content-Type-Options", "nosniff"
    if content_range is not None:
        yield "Content-Range", content_range


def _url(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise _Refusal(HTTPStatus.BAD_REQUEST) from None


def _span(asked: str, size: int) -> range | None:
    """The bytes that a Range header asks for; None is all of them."""
    match = _RANGE.fullmatch(asked)
    if match is None or not (match[1] or match[2]):
        return None
    start, stop = 0, 0
    if max(map(len, match.groups())) <= _DIGITS:
        start = int(match[1]) if match[1] else max(0, size - int(match[2]))
        stop = min(size, int(match[2]) + 1) if match[1] and match[2] else size
    if start >= stop:
        raise _Refusal(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    return range(start, stop)


def _integer(query: dict[str, str], name: str) -> int:
    """A number of a request, which is at least 0."""
    text = query.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise _Refusal(HTTPStatus.BAD_REQUEST)
    return int(text)


def _item(items: Sequence[_Item], number: int) -> _Item:
    if number >= len(items):
        raise _Refusal(HTTPStatus.NOT_FOUND)
    return items[number]
