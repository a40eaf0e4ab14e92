"""Messages of the hot tier: one JSON object a packet, with file descriptors beside it.

Invariant: whatever arrives, `decode` returns an object or raises `ProtocolError`, and no received
descriptor is left open by an error.

Sockets are SOCK_SEQPACKET (unix(7)): a packet comes whole, and its descriptors with it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MemfsError, NotPermittedError, NotSupportedError
from memfs.hot.devices.device import DeviceError
from memfs.hot.pool import HotTierFullError
from memfs.hot.tensors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import trio

PACKET_BYTES_MAX = 128 << 10
"""Longest packet: below the 208 KiB that a socket takes by default (`wmem_default`)."""

DESCRIPTORS_MAX = 2

ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)

MESSAGE_CHARS_MAX = 2000
"""Limit of an error's text: 12 KB in JSON at the most, where each character is six."""

_UCRED = struct.Struct("3i")


class ProtocolError(MemfsError):
    """A packet that is no message; the connection is of no further use."""

    errno = errno.EPROTO


class HotMissError(MemfsError):
    """The tensors are not on a device, or not of this generation."""

    errno = errno.ENOENT


class HotTimeoutError(HotMissError):
    """The tensors were not on a device in time; they may be later."""

    errno = errno.ETIMEDOUT


class HotGoneError(MemfsError):
    """The hot server has ended or closed the connection; tensors that are mapped stay readable."""

    errno = errno.ECONNRESET


ERRORS: Mapping[str, type[MemfsError]] = {
    "format": FormatError,
    "full": HotTierFullError,
    "device": DeviceError,
    "late": HotTimeoutError,
    "miss": HotMissError,
    "denied": NotPermittedError,
    "unsupported": NotSupportedError,
    "protocol": ProtocolError,
}
"""Errors that cross a socket, by their name there."""


class Packet(NamedTuple):
    """One received message."""

    message: dict[str, object]
    fds: list[int]
    """The receiver's, close-on-exec."""

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def take_fds(self) -> list[int]:
        """Return the descriptors, which are the caller's from now on."""
        taken = list(self.fds)
        self.fds.clear()
        return taken


def number_in(message: Mapping[str, object], name: str) -> int:
    """Return a number of a message.

    Raises:
        ProtocolError: It has no field of that name.
    """
    value = message.get(name)
    # True is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError(f"{name}: not a number")
    return value


def encode(message: Mapping[str, object]) -> bytes:
    """Return a message as a packet.

    Raises:
        ProtocolError: It is too long.
    """
    packet = json.dumps(message, separators=(",", ":")).encode()
    if len(packet) > PACKET_BYTES_MAX:
        raise ProtocolError(f"a message of {len(packet)} bytes; {PACKET_BYTES_MAX} are allowed")
    return packet


def ancillary(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Return descriptors as sendmsg(2) takes them; they stay the caller's."""
    if not fds:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]


def decode(data: bytes, received: Sequence[tuple[int, int, bytes]], flags: int) -> Packet:
    """Return what recvmsg(2) gave as a message.

    Raises:
        HotGoneError: The other end has closed.
        ProtocolError: It is no message; its descriptors are closed.
    """
    fds = array.array("i")
    for level, kind, content in received:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    packet = Packet({}, list(fds))
    with contextlib.ExitStack() as undo:
        undo.callback(packet.close)
        if not data:
            raise HotGoneError("the hot server closed the connection")
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise ProtocolError("a message that is too long, or has too many descriptors")
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"not a message: {error}") from None
        if not isinstance(message, dict):
            raise ProtocolError("not a message: no object")
        undo.pop_all()
    return Packet(message, packet.fds)


def send(connection: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Send a message; blocks. OSError where the other end is gone."""
    connection.sendmsg([encode(message)], ancillary(fds))


def receive(connection: socket.socket) -> Packet:
    """Receive a message; blocks. Raises as `decode`, and OSError."""
    data, received, flags, _ = connection.recvmsg(
        PACKET_BYTES_MAX, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
    )
    return decode(data, received, flags)


async def send_async(
    connection: trio.socket.SocketType, message: Mapping[str, object], fds: Sequence[int] = ()
) -> None:
    """Send a message. Checkpoint: always. OSError where the other end is gone."""
    await connection.sendmsg([encode(message)], ancillary(fds))


async def receive_async(connection: trio.socket.SocketType) -> Packet:
    """Receive a message. Checkpoint: always. Raises as `decode`, and OSError."""
    data, received, flags, _ = await connection.recvmsg(
        PACKET_BYTES_MAX, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
    )
    return decode(data, received, flags)


def peer_uid(connection: socket.socket | trio.socket.SocketType) -> int:
    """Return whom the process at the other end ran as when it connected or listened (unix(7))."""
    value = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(value)[1])


def error_reply(error: MemfsError) -> dict[str, object]:
    """Return what tells the other end of an error."""
    kind = next((name for name, known in ERRORS.items() if isinstance(error, known)), "device")
    return {"error": kind, "message": shorten(str(error))}


def shorten(text: str) -> str:
    """Return a text with its middle left out where it is too long to be told.

    Causes stand at the beginning, and remedies at the end.
    """
    if len(text) <= MESSAGE_CHARS_MAX:
        return text
    half = MESSAGE_CHARS_MAX // 2
    return f"{text[:half]} ... {text[-half:]}"


def raise_error(message: Mapping[str, object]) -> None:
    """Raise the error that a reply tells of, if it does."""
    kind = message.get("error")
    if kind is not None:
        raise ERRORS.get(str(kind), DeviceError)(str(message.get("message", kind)))
