"""An HTTP server that never ends an answer: it sends a byte now and then.

No time-out of a socket ends that, since something comes each time.
"""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from tests.waiting import join

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIP_S = 0.02

SIZE = 1 << 20
"""Bytes of the answer that it tells."""


class DrippingServer:
    """The server's state; tests look at it while the server runs.

    Args:
        in_head: It drips the head of its answers, else their bytes.
    """

    def __init__(self, *, in_head: bool) -> None:
        self.in_head = in_head
        self.port = 0
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.request_count = 0
        self.open_count = 0
        """Answers that it is about to send."""
        self.drip_count = 0
        """Bytes that it has sent by drips."""

    @property
    def url(self) -> str:
        """Where its root is."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running_dripping_server(*, in_head: bool = False) -> Iterator[DrippingServer]:
    """Run a server; it ends all answers at the end of the block."""
    state = DrippingServer(in_head=in_head)

    class Handler(_Handler):
        dripping = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="dripping")
    thread.start()
    try:
        yield state
    finally:
        state.stopped.set()
        server.shutdown()
        # It waits for the threads of its answers.
        server.server_close()
        join(thread)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    dripping: DrippingServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        state = self.dripping
        with state.lock:
            state.request_count += 1
            state.open_count += 1
        try:
            self._drip()
        except OSError:
            # The client has closed the connection.
            pass
        finally:
            self.close_connection = True
            with state.lock:
                state.open_count -= 1

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def _drip(self) -> None:
        state = self.dripping
        self.send_response(206)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(SIZE))
        self.send_header("Content-Range", f"bytes 0-{SIZE - 1}/{SIZE}")
        self.send_header("ETag", '"etag"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("x-ms-blob-type", "BlockBlob")
        if state.in_head:
            self.flush_headers()
            self.wfile.write(b"X-Long: ")
        else:
            self.end_headers()
        while not state.stopped.wait(DRIP_S):
            self.wfile.write(b"x")
            with state.lock:
                state.drip_count += 1
