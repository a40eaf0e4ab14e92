"""Servers of requests in lines: that of the command line, on a socket in the state directory.

Invariant: the control server serves only the daemon's own user and root, and no client can make the
daemon hold more than a bounded number of connections and bytes, or end it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import trio

from memfs.control.address import socket_address
from memfs.control.methods.table import METHODS
from memfs.control.protocol import (
    REQUEST_BYTES_MAX,
    SOCKET_NAME,
    ErrorCode,
    JsonValue,
    Request,
    RequestError,
    format_error,
    format_result,
    parse_request,
)
from memfs.control.typed import decode, encode
from memfs.errors import InvalidValueError, MemfsError
from memfs.linux.accepting import Acceptor

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.method import Method

log = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[object]]
"""Carries one method out; parameters are passed by name, and `encode` makes JSON of the answer."""

CONNECTION_COUNT_MAX = 32
"""Guess: people and scripts, not load. A further client takes the place of the one that has been
idle longest; while all are busy, it waits."""

IDLE_S_MAX = 60.0
"""A client that sends no whole request for so long, or does not take its reply, is let go."""

IDLE_S_MIN = 1.0
"""So long a client keeps its place in any case: it may be about to send its request."""

_RECEIVE_BYTES = 64 << 10
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class _Connection:
    """One client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.scope = trio.CancelScope()
        self.idle_since_s: float | None = trio.current_time()
        """Since when the server waits for the client; None while the client waits."""

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Bound what waits for the client.

        Raises:
            trio.TooSlowError: It let the server wait for `IDLE_S_MAX`.
        """
        self.idle_since_s = trio.current_time()
        with trio.fail_after(IDLE_S_MAX):
            yield
        self.idle_since_s = None


class LineServer:
    """Serves methods to the clients of a listener.

    Args:
        service: What it is, for the log.
        handlers: By the name that clients call.
        methods: What each takes; has all of the handlers.
    """

    def __init__(
        self, service: str, handlers: Mapping[str, Handler], methods: Mapping[str, Method[Any, Any]]
    ) -> None:
        self._service = service
        self._handlers = {name: (methods[name], handler) for name, handler in handlers.items()}
        self._connections: set[_Connection] = set()

    def _admit(
        self, stream: trio.SocketStream
    ) -> contextlib.AbstractContextManager[tuple[object, ...] | None]:
        """Return what each method gets first, while a client is served; None: it is not."""
        raise NotImplementedError

    async def _serve_listener(self, listener: trio.socket.SocketType) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            slots = trio.Semaphore(CONNECTION_COUNT_MAX)
            acceptor = Acceptor(listener, self._service, self._end_idlest)
            while True:
                stream = trio.SocketStream(await acceptor.accept())
                try:
                    await self._take_slot(slots)
                except BaseException:
                    stream.socket.close()
                    raise
                nursery.start_soon(self._serve_connection, _Connection(stream), slots)

    async def _take_slot(self, slots: trio.Semaphore) -> None:
        """Wait until a client may be served, and end an idle one for it."""
        while True:
            with contextlib.suppress(trio.WouldBlock):
                slots.acquire_nowait()
                return
            self._end_idlest()
            with trio.move_on_after(IDLE_S_MIN):
                await slots.acquire()
                return

    def _end_idlest(self) -> None:
        """End the connection that has been idle longest, if one has been for `IDLE_S_MIN`."""
        idle = [
            (connection.idle_since_s, connection.scope)
            for connection in self._connections
            if connection.idle_since_s is not None and not connection.scope.cancel_called
        ]
        since_s, scope = min(idle, key=lambda pair: pair[0], default=(math.inf, None))
        if scope is not None and trio.current_time() - since_s >= IDLE_S_MIN:
            scope.cancel()

    async def _serve_connection(self, connection: _Connection, slots: trio.Semaphore) -> None:
        self._connections.add(connection)
        try:
            with connection.scope:
                async with connection.stream:
                    with (
                        contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError),
                        self._admit(connection.stream) as given,
                    ):
                        if given is not None:
                            await self._serve_stream(connection, given)
        except Exception:
            # One client's end, and nobody else's.
            log.exception("control: a connection ended because of a defect")
        finally:
            self._connections.discard(connection)
            slots.release()

    async def _serve_stream(self, connection: _Connection, given: tuple[object, ...]) -> None:
        stream = connection.stream
        buffer = bytearray()
        while True:
            # For all of a request: a byte now and then would keep a place for ever.
            with connection.idle():
                data = b""
                while b"\n" not in data and len(buffer) <= REQUEST_BYTES_MAX:
                    data = await stream.receive_some(_RECEIVE_BYTES)
                    if not data:
                        return
                    buffer += data
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                reply = await self._answer(line, given)
                with connection.idle():
                    await stream.send_all(reply)
            if len(buffer) > REQUEST_BYTES_MAX:
                message = f"the request is longer than {REQUEST_BYTES_MAX} bytes"
                with connection.idle():
                    await stream.send_all(format_error(None, ErrorCode.INVALID_REQUEST, message))
                return

    async def _answer(self, line: bytes, given: tuple[object, ...]) -> bytes:
        """Return the reply to one line; empty for a notification."""
        try:
            request = parse_request(line)
            reply = format_result(request.id, await self._call(request, given))
        except RequestError as error:
            return format_error(error.request_id, error.code, str(error), error.errno)
        return b"" if request.is_notification else reply

    async def _call(self, request: Request, given: tuple[object, ...]) -> JsonValue:
        found = self._handlers.get(request.method)
        if found is None:
            raise RequestError(
                ErrorCode.METHOD_NOT_FOUND, f"there is no method {request.method!r}", request.id
            )
        method, handler = found
        try:
            parameters = decode(method.parameters, request.params)
        except InvalidValueError as error:
            message = f"{request.method}: {error}"
            raise RequestError(ErrorCode.INVALID_PARAMS, message, request.id, error.errno) from None
        try:
            answer: JsonValue = encode(await handler(*given, **parameters))
        except (MemfsError, OSError) as error:
            raise RequestError(ErrorCode.REFUSED, str(error), request.id, error.errno) from error
        except Exception:
            log.exception("control: method %s failed", request.method)
            message = f"{request.method} failed; the daemon's log says why"
            raise RequestError(ErrorCode.INTERNAL, message, request.id) from None
        return answer


class ControlServer(LineServer):
    """Serves methods on `control.sock`."""

    def __init__(
        self,
        state_dir: Path,
        handlers: Mapping[str, Handler],
        methods: Mapping[str, Method[Any, Any]] = METHODS,
    ) -> None:
        """Take the methods by name; nothing is opened yet.

        Args:
            state_dir: Locked by this process, so that a socket found there is a dead one.
            handlers: By the name that clients call.
            methods: What each takes; has all of the handlers.
        """
        super().__init__("control socket", handlers, methods)
        self._state_dir = state_dir

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; started when clients can connect. Removes the socket at the end.

        Raises:
            OSError: The socket cannot be made.
        """
        path = self._state_dir / SOCKET_NAME
        with self._listen(path) as listener:
            task_status.started()
            try:
                await self._serve_listener(listener)
            finally:
                path.unlink(missing_ok=True)

    def _listen(self, path: Path) -> trio.socket.SocketType:
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket_address(self._state_dir) as address:
                listener.bind(address)
            # Nobody can connect between bind and listen, so the mode is never too wide.
            path.chmod(0o600)
            listener.listen(CONNECTION_COUNT_MAX)
            return trio.socket.from_stdlib_socket(listener)
        except BaseException:
            listener.close()
            raise

    @contextlib.contextmanager
    def _admit(self, stream: trio.SocketStream) -> Iterator[tuple[object, ...] | None]:
        credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        assert isinstance(credentials, bytes)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid in (0, os.geteuid()):
            yield ()
        else:
            log.info("control: process %d of user %d was turned away", pid, uid)
            yield None
