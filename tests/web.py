"""A web server over a folder, that does as it is told."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Web(ThreadingHTTPServer):
    """``requests`` lists (method, path), ``asked`` the ranges of those that had one.

    ``status`` answers the next ``failures`` requests, with ``headers`` to it; the next ``cuts``
    files break off after ``cut_after`` bytes. ``Content-Length`` is wrong by ``lie`` bytes. The
    next ``silences`` files stop coming halfway, for ``silence_s``. ``before`` is called with the
    path of each file before it is sent; ``tells_version`` sends its ETag. ``pages`` are
    answers by path that are no files, all said to be of ``encoding`` where that is set.
    """

    def __init__(self, folder: Path, *, ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, ranges
        self.requests: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.status, self.failures = 503, 0
        self.cut_after, self.cuts = 0, 0
        self.pages: dict[str, bytes] = {}
        self.encoding = ""
        self.headers: dict[str, str] = {}
        self.lie, self.silences, self.silence_s = 0, 0, 0.0
        self.before: Callable[[str], object] = lambda path: None
        self.tells_version = False
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """A client that goes away early is no trouble."""


@contextmanager
def serve(folder: Path, *, ranges: bool = True) -> Iterator[Web]:
    with Web(folder, ranges=ranges) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        if (data := self._head()) is None:
            return
        if self.server.cuts:  # less than the announced length: the connection ends with the answer
            self.server.cuts -= 1
            data = data[: self.server.cut_after]
        if self.server.silences:
            self.server.silences -= 1
            self.wfile.write(data[: len(data) // 2])
            self.server.over.wait(self.server.silence_s)
            data = data[len(data) // 2 :]
        self.wfile.write(data)

    def do_HEAD(self) -> None:
        self._head()

    def log_message(self, *args: object) -> None: ...

    def _head(self) -> bytes | None:
        self.server.requests.append((self.command, self.path))
        if self.server.failures:
            self.server.failures -= 1
            return self._refuse(self.server.status)
        if (page := self.server.pages.get(self.path)) is not None:
            return self._answer(page)
        path = self.server.folder / unquote(self.path).lstrip("/")
        if not path.is_file():
            return self._refuse(404)
        self.server.before(self.path)
        data, asked = path.read_bytes(), self.headers.get("Range")
        if asked is None or not self.server.ranges:
            self.send_response(200)
        else:
            self.server.asked.append(asked)
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            if int(first) >= len(data):
                return self._refuse(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[int(first) : int(last) + 1]
        if self.server.tells_version:
            self.send_header("ETag", f'"{sha256(path.read_bytes()).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) + self.server.lie))
        self.end_headers()
        return data[: len(data) + self.server.lie]

    def _answer(self, page: bytes) -> bytes:
        self.send_response(200)
        if self.server.encoding:
            self.send_header("Content-Encoding", self.server.encoding)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        return page

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
