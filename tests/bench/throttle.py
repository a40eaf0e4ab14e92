"""A proxy that makes a server on this machine as slow as one far away.

Invariant: what comes back through all connections together is no faster than the given rate.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_BYTES = 64 << 10


class _Bucket:
    """Hands out room for bytes at a rate."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_s = time.monotonic()

    def take(self, size: int) -> None:
        """Return when `size` bytes may go."""
        with self._lock:
            now_s = time.monotonic()
            self._free_s = max(self._free_s, now_s) + size / self._bytes_per_s
            pause_s = self._free_s - now_s
        time.sleep(pause_s)


def _carry(source: socket.socket, target: socket.socket, bucket: _Bucket | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            if bucket is not None:
                bucket.take(len(data))
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def throttled(port: int, bytes_per_s: float) -> Iterator[int]:
    """Yield a port that leads to another one on this machine, at a rate."""
    bucket = _Bucket(bytes_per_s)
    open_sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    program, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", port))
                    open_sockets.extend((program, server))
                    for ends in ((program, server, None), (server, program, bucket)):
                        threading.Thread(target=_carry, args=ends, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for each in open_sockets:
                each.close()
