"""The link: the daemon's end of its connection to the hot server.

Invariant: a call ends with the server's answer, or with `HotGoneError` when the server has ended.
One that does not answer within `ANSWER_S_MAX` is given up, and all calls end.
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


ANSWER_S_MAX = 60.0
"""The server's loop answers within milliseconds, also while its threads load files. One that does
not for so long hangs in a driver, or was stopped (SIGSTOP). Guess."""

LOAD = "load"
"""The one call that takes as long as it takes: it reads a file and copies it to a device."""


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
        self._patience = trio.CancelScope()
        """Cancelled when the server is given up."""

    async def run(self) -> None:
        """Take what the server sends, until it ends.

        Raises:
            HotGoneError: It does not answer any more.
        """
        try:
            with self._patience:
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
        raise self._silence()

    async def call(self, op: str, fds: Sequence[int] = (), **fields: object) -> dict[str, object]:
        """Call the server and return its answer.

        Args:
            fds: Descriptors to pass; they stay the caller's.

        Raises:
            HotGoneError: The server has ended, or does not answer any more.
            MemfsError: It answered with an error.
        """
        number = next(self._numbers)
        waiting = self._calls[number] = _Call()
        try:
            if self._ended:
                raise HotGoneError("the hot server has ended")
            with trio.move_on_after(float("inf") if op == LOAD else ANSWER_S_MAX) as limit:
                try:
                    async with self._lock:
                        await send(self._connection, {"id": number, "op": op, **fields}, fds)
                except (OSError, trio.ClosedResourceError) as error:
                    raise HotGoneError(f"the hot server has ended: {error}") from None
                await waiting.event.wait()
        finally:
            del self._calls[number]
        if waiting.answer is None:
            if limit.cancelled_caught:
                self._patience.cancel()
            if self._patience.cancel_called:
                raise self._silence()
            raise HotGoneError(f"the hot server ended during {op}")
        raise_error(waiting.answer)
        return waiting.answer

    def _silence(self) -> HotGoneError:
        return HotGoneError(f"the hot server does not answer within {ANSWER_S_MAX:g} s")

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
