"""The control server: answers the command line over a unix socket in the state directory.

Invariant: only the daemon's own user and root are served, and no client can make the daemon hold
more than a bounded number of connections and bytes, or end it.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import trio

from memfs.control.address import socket_address
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
from memfs.errors import MemfsError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

Method = Callable[..., Awaitable[JsonValue]]
"""One method of the socket; parameters are passed by name."""

CONNECTION_COUNT_MAX = 32
"""Further clients wait in the socket's queue; guess: people and scripts, not load."""

IDLE_S_MAX = 60.0
"""A client that sends nothing for so long, or does not take its reply, is let go."""

_RECEIVE_BYTES = 64 << 10
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class ControlServer:
    """Serves methods on `control.sock`."""

    def __init__(self, state_dir: Path, methods: Mapping[str, Method]) -> None:
        """Take the methods by name; nothing is opened yet.

        Args:
            state_dir: Locked by this process, so that a socket found there is a dead one.
            methods: By the name that clients call.
        """
        self._state_dir = state_dir
        self._methods = dict(methods)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; started when clients can connect. Removes the socket at the end.

        Raises:
            OSError: The socket cannot be made.
        """
        path = self._state_dir / SOCKET_NAME
        with self._listen(path) as listener:
            task_status.started()
            try:
                async with trio.open_nursery() as nursery:
                    slots = trio.Semaphore(CONNECTION_COUNT_MAX)
                    while True:
                        await slots.acquire()
                        connection, _ = await listener.accept()
                        nursery.start_soon(self._serve_connection, connection, slots)
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

    async def _serve_connection(
        self, connection: trio.socket.SocketType, slots: trio.Semaphore
    ) -> None:
        try:
            async with trio.SocketStream(connection) as stream:
                with contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError):
                    await self._serve_stream(stream)
        finally:
            slots.release()

    async def _serve_stream(self, stream: trio.SocketStream) -> None:
        credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        assert isinstance(credentials, bytes)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (0, os.geteuid()):
            log.info("control: process %d of user %d was turned away", pid, uid)
            return
        buffer = bytearray()
        while True:
            with trio.fail_after(IDLE_S_MAX):
                data = await stream.receive_some(_RECEIVE_BYTES)
            if not data:
                return
            buffer += data
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                reply = await self._answer(line)
                with trio.fail_after(IDLE_S_MAX):
                    await stream.send_all(reply)
            if len(buffer) > REQUEST_BYTES_MAX:
                message = f"the request is longer than {REQUEST_BYTES_MAX} bytes"
                with trio.fail_after(IDLE_S_MAX):
                    await stream.send_all(format_error(None, ErrorCode.INVALID_REQUEST, message))
                return

    async def _answer(self, line: bytes) -> bytes:
        """Return the reply to one line; empty for a notification."""
        try:
            request = parse_request(line)
            reply = format_result(request.id, await self._call(request))
        except RequestError as error:
            return format_error(error.request_id, error.code, str(error))
        return b"" if request.is_notification else reply

    async def _call(self, request: Request) -> JsonValue:
        method = self._methods.get(request.method)
        if method is None:
            raise RequestError(
                ErrorCode.METHOD_NOT_FOUND, f"there is no method {request.method!r}", request.id
            )
        try:
            inspect.signature(method).bind(**request.params)
        except TypeError as error:
            message = f"{request.method}: {error}"
            raise RequestError(ErrorCode.INVALID_PARAMS, message, request.id) from None
        try:
            return await method(**request.params)
        except (MemfsError, OSError) as error:
            raise RequestError(ErrorCode.REFUSED, str(error), request.id) from error
        except Exception:
            log.exception("control: method %s failed", request.method)
            message = f"{request.method} failed; the daemon's log says why"
            raise RequestError(ErrorCode.INTERNAL, message, request.id) from None
