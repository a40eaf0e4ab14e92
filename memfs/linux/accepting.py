"""Taking connections from a listening socket, whatever the system is short of.

Invariant: no error of accept(2) reaches the caller. A client that could not be taken either went
away by itself or still waits in the listener's queue, and is asked for again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

PAUSE_S = 0.1
"""Between two attempts. The client waits in the queue and keeps the listener readable, so that
without a pause the loop would spin."""


class Acceptor:
    """Takes the clients of one listener."""

    def __init__(
        self,
        listener: trio.socket.SocketType,
        service: str,
        make_room: Callable[[], None] | None = None,
    ) -> None:
        """Take a socket that listens.

        Args:
            listener: Stays the caller's to close.
            service: What the clients want, for the log.
            make_room: Called when a client could not be taken: gives descriptors back if it can.
        """
        self._listener = listener
        self._service = service
        self._make_room = make_room
        self._short = False

    async def accept(self) -> trio.socket.SocketType:
        """Return the next connection.

        Checkpoint: always. Cancel: safe.

        Source: accept(2), Errors: EMFILE, ENFILE, ENOBUFS, ENOMEM and ECONNABORTED pass; a network
        error is to be taken for "again".
        """
        while True:
            try:
                connection, _ = await self._listener.accept()
            except OSError as error:
                # Said once a shortage: it can last as long as somebody holds the descriptors.
                if not self._short:
                    log.warning("%s: a client has to wait: %s", self._service, error)
                self._short = True
                if self._make_room is not None:
                    self._make_room()
                await trio.sleep(PAUSE_S)
                continue
            self._short = False
            return connection
