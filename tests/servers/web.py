"""A web server in the tests' own process: pages with links, ranges, and headers that lie."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tests.waiting import join

if TYPE_CHECKING:
    from collections.abc import Iterator


class WebServer:
    """The server's state; tests change it while the server runs."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        """By path, without a slash at its beginning."""
        self.headers: dict[str, dict[str, str]] = {}
        """By path: headers that an answer has in the place of its own; empty: it has no such."""
        self.lies_to: tuple[str, ...] = ("HEAD", "GET")
        """Methods whose answers have these."""
        self.statuses: dict[str, list[int]] = {}
        """By path: what the next answers are instead."""
        self.links: dict[str, list[str]] = {}
        """By path of a directory: more links on its page."""
        self.knows_ranges = True
        self.knows_head = True
        self.has_etags = True
        self.flips = 0
        """So many answers with bytes have a bit that is another one."""
        self.counts: Counter[str] = Counter()
        """Requests by method."""

    def names_in(self, directory: str) -> set[str]:
        """Return what the page of a directory links to."""
        found = set(self.links.get(directory, ()))
        for path in self.files:
            if path.startswith(directory):
                name, slash, _ = path.removeprefix(directory).partition("/")
                found.add(name + slash)
        return found


@contextlib.contextmanager
def running_web_server() -> Iterator[WebServer]:
    """Run a server without files; its threads are gone afterwards."""
    state = WebServer()

    class Handler(_Handler):
        web = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="web-server")
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        join(thread)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        state, path = self.web, unquote(self.path).lstrip("/")
        state.counts[self.command] += 1
        try:
            if waiting := state.statuses.get(path):
                self._send(waiting.pop(0), b"", {})
            elif self.command == "HEAD" and not state.knows_head:
                self._send(405, b"", {})
            elif path in state.files:
                self._send_file(path, state.files[path])
            elif names := state.names_in(path if path.endswith("/") or not path else f"{path}/"):
                page = "".join(f'<a href="{name}">{name}</a>\n' for name in sorted(names))
                self._send(200, page.encode(), {"Content-Type": "text/html"})
            else:
                self._send(404, b"", {})
        except ConnectionError:
            self.close_connection = True

    def _send_file(self, path: str, data: bytes) -> None:
        state = self.web
        headers = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Content-Type": "text/csv"}
        if state.has_etags:
            headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        wanted = self.headers.get("If-Match")
        if wanted and wanted != headers.get("ETag"):
            self._send(412, b"", {})
            return
        headers["Repr-Digest"] = (
            f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"
        )
        status, found = 200, self.headers.get("Range")
        if found and state.knows_ranges:
            first, _, last = found.removeprefix("bytes=").partition("-")
            whole, data = data, data[int(first) : int(last) + 1]
            status = 206 if data else 416
            span = f"{first}-{int(first) + len(data) - 1}" if data else "*"
            headers["Content-Range"] = f"bytes {span}/{len(whole)}"
        if state.flips and data and self.command == "GET":
            state.flips -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        lies = state.headers.get(path, {}) if self.command in state.lies_to else {}
        self._send(status, data, headers | lies)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
