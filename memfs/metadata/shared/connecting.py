"""Connections by one way each, within a limit of time.

Invariant: what fails leaves no socket behind.
"""

from __future__ import annotations

import re
import select
import time
from typing import TYPE_CHECKING

from psycopg import Error as LibpqError
from psycopg import pq

from memfs.linux.readiness import await_ready
from memfs.metadata.shared.address import one_line

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

    from memfs.metadata.shared.address import Way


class NotConnectedError(Exception):
    """One way led nowhere."""

    def __init__(self, text: str, *, is_without_tls: bool = False) -> None:
        super().__init__(text)
        self.is_without_tls = is_without_tls
        """The server answered that it has no TLS."""


def connect_by(way: Way, timeout_s: float) -> PGconn:
    """Connect by one way.

    Raises:
        NotConnectedError: No server there that takes this user, and changes, in time.
    """
    deadline = time.monotonic() + timeout_s
    connection = pq.PGconn.connect_start(way.conninfo)
    status = pq.PollingStatus.WRITING
    try:
        while connection.status != pq.ConnStatus.BAD:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise NotConnectedError(f"no answer in {max(timeout_s, 0):.1f} s")
            events = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
            await_ready([connection.socket], left_s, events)
            status = pq.PollingStatus(connection.connect_poll())
            if status == pq.PollingStatus.OK:
                connection.nonblocking = 1
                connection.enter_pipeline_mode()
                return connection
            if status == pq.PollingStatus.FAILED:
                break
        raise _refusal(way, one_line(connection.error_message.decode(errors="replace")))
    except LibpqError as error:
        raise NotConnectedError(one_line(str(error))) from None
    finally:
        if status != pq.PollingStatus.OK:
            connection.finish()


_WHERE = re.compile(r'connection to server (?:at|on socket) "[^"]*"[^:]*(?:, port \d+)? failed: ')
"""How libpq begins: messages have the place already."""


def _refusal(way: Way, text: str) -> NotConnectedError:
    text = _WHERE.sub("", text)
    if way.is_open_to_listeners and "authentication method requirement" in text:
        text = (
            "the server asks for a password, and memfs sends no password over a network without "
            "TLS: switch TLS on in the server (ssl = on)"
        )
    return NotConnectedError(text, is_without_tls="does not support SSL" in text)
