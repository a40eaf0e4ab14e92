"""A TCP proxy that makes a server farther away: each byte arrives later, both on the way and back.

Run as a program: it listens at a port, says `ready`, and ends when its standard input does.

Invariant: bytes keep their order, and their number; a delay takes no throughput.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from tests.servers.process import free_ports
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 1 << 16
IDLE_S_MAX = 86_400.0
"""Far above the pauses of any test."""


@contextlib.contextmanager
def running_slow_proxy(port: int, round_trip_s: float) -> Iterator[int]:
    """Run a proxy before a port of loopback, in a process of its own; gives the port to take.

    Args:
        port: The server's.
        round_trip_s: By so much a question and its answer take longer.
    """
    [own] = free_ports(1)
    command = [sys.executable, "-m", __name__, str(own), str(port), str(round_trip_s / 2)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield own
        finally:
            process.stdin.close()
            process.wait(WAIT_S)


def main() -> None:
    """Serve until standard input ends."""
    own, target, delay_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with socket.create_server(("127.0.0.1", own)) as listener:
        threading.Thread(target=_accept, args=(listener, target, delay_s), daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()


def _accept(listener: socket.socket, target: int, delay_s: float) -> None:
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", target))
        except OSError:
            near.close()
            continue
        for source, sink in ((near, far), (far, near)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            for work in (_read, _write):
                arguments = (source, late, delay_s) if work is _read else (sink, late)
                threading.Thread(target=work, args=arguments, daemon=True).start()


def _read(
    source: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]], delay_s: float
) -> None:
    data = b"-"
    while data:
        try:
            data = source.recv(CHUNK_BYTES)
        except OSError:
            data = b""
        late.put((time.monotonic() + delay_s, data))


def _write(sink: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due_s, data = late.get(timeout=IDLE_S_MAX)
        time.sleep(max(due_s - time.monotonic(), 0))
        try:
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
        except OSError:
            return


if __name__ == "__main__":
    main()
