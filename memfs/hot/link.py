"""The link: the daemon's end of its connection to the hot server.

Invariant: a call ends with the server's answer, or with `HotGoneError` when the server has ended.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from memfs.hot.protocol import HotGoneError, Packet, raise_error
from memfs.hot.protocol import receive_async as receive
from memfs.hot.protocol import send_async as send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Call:
    """A call that waits for its answer."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: dict[str, object] | None = None


class HotLink:
    """Calls to the server, and events of it.

    Args:
        connection: SOCK_SEQPACKET, the server at its other end.
        on_event: Called with each event.
    """

    def __init__(
        self,
        connection: trio.socket.SocketType,
        on_event: Callable[[dict[str, object]], None],
    ) -> None:
        self._connection = connection
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._lock = trio.Lock()
        self._ended = False

    async def run(self) -> None:
        """Take what the server sends, until it ends."""
        try:
            while True:
                packet = await receive(self._connection)
                packet.close()
                self._take(packet)
        except (HotGoneError, OSError):
            return
        finally:
            self._ended = True
            for call in self._calls.values():
                call.event.set()

    async def call(self, op: str, fds: Sequence[int] = (), **fields: object) -> dict[str, object]:
        """Call the server and return its answer.

        Args:
            fds: Descriptors to pass; they stay the caller's.

        Raises:
            HotGoneError: The server has ended.
            MemfsError: It answered with an error.
        """
        number = next(self._numbers)
        waiting = self._calls[number] = _Call()
        try:
            if self._ended:
                raise HotGoneError("the hot server has ended")
            try:
                async with self._lock:
                    await send(self._connection, {"id": number, "op": op, **fields}, fds)
            except OSError as error:
                raise HotGoneError(f"the hot server has ended: {error}") from None
            await waiting.event.wait()
        finally:
            del self._calls[number]
        if waiting.answer is None:
            raise HotGoneError(f"the hot server ended during {op}")
        raise_error(waiting.answer)
        return waiting.answer

    def _take(self, packet: Packet) -> None:
        message = packet.message
        if "event" in message:
            self._on_event(message)
            return
        number = message.get("id")
        waiting = self._calls.get(number) if isinstance(number, int) else None
        if waiting is None:
            # Its caller was cancelled.
            return
        waiting.answer = message
        waiting.event.set()
