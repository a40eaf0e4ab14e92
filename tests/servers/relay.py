"""A relay of TCP connections that loses an answer, is silent for a while, or ends connections.

What it holds back goes on later, as what TCP sends again; a new connection is made meanwhile, and
nothing comes through it.

Invariant: what a client sends reaches the server, whole and in order, also where an answer is lost;
but for connections that are ended.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from tests.waiting import WAIT_S, join, wait_for, wait_until_set

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE_BYTES = 1 << 16


class Relay:
    """Listens on a port of its own, and passes on what comes, in threads.

    Args:
        port: That of the server on this machine.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loses = threading.Event()
        self._gates = {False: threading.Event(), True: threading.Event()}
        """Cleared: questions, or answers, are held back."""
        self.let_go()
        self.lost_count = 0
        """Answers that were lost."""
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def lose_an_answer(self) -> None:
        """Lose the next answer, with its connection; returns when that was done."""
        before = self.lost_count
        self._loses.set()
        wait_for(lambda: self.lost_count > before, "no answer came")

    def hold(self, *, questions: bool = True, answers: bool = True) -> None:
        """Hold back what comes from now on: nothing, or one way, or both ways."""
        for is_answer, is_held in ((False, questions), (True, answers)):
            if is_held:
                self._gates[is_answer].clear()

    def let_go(self) -> None:
        """Pass on what was held back, and all that comes."""
        for gate in self._gates.values():
            gate.set()

    def end_connections(self) -> None:
        """End all that there are, and lose what was held back."""
        for each in [*self._sockets]:
            _end(each)

    def close(self) -> None:
        """End all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.end_connections()
        self.let_go()
        join(*self._threads)

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), WAIT_S)
            except OSError:
                # As a server that is not there answers.
                client.close()
                continue
            self._sockets |= {client, server}
            self._start(self._pass_on, client, server, False)
            self._start(self._pass_on, server, client, True)

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(_PIECE_BYTES)
                # The end of a connection is a packet as well.
                wait_until_set(self._gates[is_answer])
                if not data:
                    break
                if is_answer and self._loses.is_set():
                    self._loses.clear()
                    self.lost_count += 1
                    break
                target.sendall(data)
        for each in (source, target):
            self._sockets.discard(each)
            _end(each)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def relaying(port: int) -> Iterator[Relay]:
    """Run a relay before a server on this machine."""
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
