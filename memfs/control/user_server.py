"""The user server: answers users who have no right to the control socket.

Invariant: a method is told by the kernel who asks, and no user takes more than a few of the bounded
number of connections.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING

import trio

from memfs.control.server import CONNECTION_COUNT_MAX, LineServer
from memfs.linux.peers import peer_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from memfs.control.methods.method import Method
    from memfs.control.server import Handler

log = logging.getLogger(__name__)

CONNECTIONS_A_USER_MAX = 4
"""Guess: one that asks, and some that begin or end."""


class UserServer(LineServer):
    """Serves methods at an abstract address; each gets the `Peer` first.

    Args:
        address: That of the socket (unix(7), abstract).
        handlers: By the name that clients call.
        methods: What each takes; has all of the handlers.
    """

    def __init__(
        self,
        address: str,
        handlers: Mapping[str, Handler],
        methods: Mapping[str, Method[Any, Any]],
    ) -> None:
        super().__init__("socket of users", handlers, methods)
        self._address = address
        self._counts: Counter[int] = Counter()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: The socket cannot be made.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(self._address)
            listener.listen(CONNECTION_COUNT_MAX)
            await self._serve_listener(trio.socket.from_stdlib_socket(listener))

    @contextlib.contextmanager
    def _admit(self, stream: trio.SocketStream) -> Iterator[tuple[object, ...] | None]:
        try:
            peer = peer_of(stream.socket)
        except OSError as error:
            log.info("a user cannot be served: %s", error.strerror)
            yield None
            return
        if self._counts[peer.uid] >= CONNECTIONS_A_USER_MAX:
            log.debug("user %d has too many connections", peer.uid)
            yield None
            return
        self._counts[peer.uid] += 1
        try:
            yield (peer,)
        finally:
            self._counts[peer.uid] -= 1
            self._counts += Counter()
