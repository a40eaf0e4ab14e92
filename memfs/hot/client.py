"""The client: how a program attaches to tensors that are in the hot tier.

Invariants:
- A program talks to the server that the daemon named, run by the user that the daemon named.
- One connection a server and process; after a fork, or when the server has died, a new one.

Knows no torch. Blocking sockets, so that it works in any program and in any thread.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memfs.hot.protocol import (
    HotGoneError,
    Packet,
    ProtocolError,
    number_in,
    peer_uid,
    raise_error,
    receive,
    send,
)
from memfs.hot.tensors import load_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.hot.tensors import TensorIndex

TICKET_XATTR = "user.memfs.lease"
"""Read through an open descriptor of a file, for whose permissions the kernel then stands."""

REPLY_S = 30.0
"""A server that has not answered by then, beyond what a call may wait, is taken to hang."""

_NO_TICKET = {errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.ENOSYS}


class Ticket(NamedTuple):
    """What a file's `user.memfs.lease` says."""

    address: str
    """Abstract unix socket of the server, without the leading NUL."""
    uid: int
    """Whom the server runs as."""
    token: str
    """Good once, for a minute."""
    generation: int
    resident: bool
    """The file was in the hot tier when the ticket was made."""
    kind: str
    """That of the devices: `cuda` or `cpu`."""
    uuids: tuple[str, ...]
    """Devices of the tier."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of this program to a slab, until it is released."""

    number: int
    """By which the server knows it."""
    kind: str
    uuid: str
    size_bytes: int
    slab_fd: int
    """The caller's."""
    index: TensorIndex
    """That of the slab."""
    generation: int
    report: Mapping[str, object]
    """That of a variant: `cast_count`, `overflow_count`."""


def read_ticket(fd: int) -> Ticket | None:
    """Return the ticket of an open file; None if it is not on memfs, or memfs has no hot tier.

    Raises:
        OSError: Any other failure of fgetxattr(2).
    """
    try:
        value = os.getxattr(fd, TICKET_XATTR)
    except OSError as error:
        if error.errno in _NO_TICKET:
            return None
        raise
    fields = json.loads(value)
    fields["uuids"] = tuple(fields["uuids"])
    return Ticket(**fields)


class HotClient:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._last_id = 0
        self.pid = os.getpid()
        self.closed = False

    @classmethod
    def connect(cls, address: str, uid: int) -> HotClient:
        """Connect to a server.

        Args:
            address: Abstract unix socket, without the leading NUL.
            uid: Whom it has to run as.

        Raises:
            HotGoneError: Nobody serves there, or somebody else does.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(REPLY_S)
            connection.connect(f"\0{address}")
            if (found := peer_uid(connection)) != uid:
                raise HotGoneError(f"the hot server is run by user {found}, not by {uid}")
        except OSError as error:
            connection.close()
            raise HotGoneError(f"no hot server answers: {error}") from None
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def attach(
        self,
        token: str,
        *,
        dtype: str | None = None,
        layout: str | None = None,
        demand: bool = False,
        device: str | None = None,
        timeout_s: float = 30.0,
    ) -> Lease:
        """Lease the slab of a file.

        Args:
            dtype: Precision of its floats: one of `PRECISIONS`; None: as in the file.
            layout: `channels_last`; None: as in the file.
            demand: Have it loaded if it is not there, and wait.
            device: UUID, where it is to be loaded; None: the server chooses.
            timeout_s: Longest wait.

        Raises:
            HotMissError: It is not there, and was not loaded in time.
            HotTierFullError: It, or the variant, has no room.
            FormatError: The file holds no tensors.
            NotPermittedError: The token is spent.
            HotGoneError: The server has ended.
        """
        return self._attach(
            {
                "op": "attach",
                "token": token,
                "dtype": dtype,
                "layout": layout,
                "demand": demand,
                "device": device,
                "timeout_s": timeout_s,
            },
            timeout_s + REPLY_S,
        )

    def attach_snapshot(
        self, name: str, label: str, *, dtype: str | None = None, layout: str | None = None
    ) -> Lease:
        """Lease a slab that a snapshot keeps.

        Args:
            name: That of the snapshot, which has to be the caller's.
            label: What the slab was called when it was made.
            dtype: As of `attach`.
            layout: As of `attach`.

        Raises:
            HotMissError: There is no such snapshot, or it has no such slab.
            NotPermittedError: It is another user's.
            HotGoneError: The server has ended, and its snapshots with it.
        """
        return self._attach(
            {
                "op": "attach_snapshot",
                "name": name,
                "label": label,
                "dtype": dtype,
                "layout": layout,
            },
            REPLY_S,
        )

    def _attach(self, message: dict[str, object], timeout_s: float) -> Lease:
        packet = self._call(message, timeout_s)
        fds = packet.take_fds()
        with contextlib.ExitStack() as undo:
            for fd in fds:
                undo.callback(os.close, fd)
            if len(fds) != 2:
                raise ProtocolError("the hot server sent no slab")
            slab_fd, index_fd = fds
            index = load_index(json.loads(os.pread(index_fd, os.fstat(index_fd).st_size, 0)))
            answer = packet.message
            lease = Lease(
                number=number_in(answer, "lease"),
                kind=str(answer["kind"]),
                uuid=str(answer["uuid"]),
                size_bytes=number_in(answer, "size_bytes"),
                slab_fd=slab_fd,
                index=index,
                generation=number_in(answer, "generation"),
                report=dict(answer["report"]),  # type: ignore[call-overload]  # checked by use
            )
            undo.pop_all()
        os.close(index_fd)
        return lease

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing happens if it or the server is gone."""
        with contextlib.suppress(HotGoneError, OSError):
            self._call({"op": "release", "lease": lease.number})

    def stats(self) -> dict[str, object]:
        """Return capacities, slabs and counters of the server."""
        return self._call({"op": "stats"}).message

    def snapshot(self, name: str, tokens: Mapping[str, str]) -> dict[str, object]:
        """Keep the slabs of files as they are, whatever becomes of the files.

        Args:
            name: Added to it if it exists and is the caller's.
            tokens: Those of files in the hot tier, by labels of the caller's choice.

        Returns:
            `count` and `size_bytes`.

        Raises:
            HotMissError: One is not in the hot tier; nothing is kept.
            NotPermittedError: The snapshot is another user's.
        """
        return self._call({"op": "snapshot", "name": name, "tokens": dict(tokens)}).message

    def drop_snapshot(self, name: str) -> None:
        """Let the slabs of a snapshot go."""
        self._call({"op": "drop_snapshot", "name": name})

    def close(self) -> None:
        """Close the connection, which releases all its leases; idempotent."""
        self.closed = True
        self._connection.close()

    def _call(self, message: dict[str, object], timeout_s: float = REPLY_S) -> Packet:
        with self._lock:
            if self.closed:
                raise HotGoneError("the connection to the hot server is closed")
            self._last_id += 1
            deadline_s = time.monotonic() + timeout_s
            try:
                self._connection.settimeout(timeout_s)
                send(self._connection, {"id": self._last_id, **message})
                packet = receive(self._connection)
            except TimeoutError:
                # An answer that comes later would be taken for that of the next call.
                self.close()
                waited_s = timeout_s + time.monotonic() - deadline_s
                raise HotGoneError(f"the hot server was silent for {waited_s:.0f} s") from None
            except (HotGoneError, OSError) as error:
                self.close()
                raise HotGoneError(f"the hot server has ended: {error}") from None
            except ProtocolError:
                self.close()
                raise
        try:
            if packet.message.get("id") != self._last_id:
                self.close()
                raise ProtocolError("the hot server answered something else")
            raise_error(packet.message)
        except BaseException:
            packet.close()
            raise
        return packet


_clients: dict[str, HotClient] = {}
_clients_lock = threading.Lock()


def client_for(ticket: Ticket) -> HotClient:
    """Return this process's connection to the server of a ticket.

    Raises:
        HotGoneError: Nobody serves there.
    """
    return client_at(ticket.address, ticket.uid)


def client_at(address: str, uid: int) -> HotClient:
    """Return this process's connection to a server; see `HotClient.connect`."""
    with _clients_lock:
        client = _clients.get(address)
        if client is None or client.closed:
            client = _clients[address] = HotClient.connect(address, uid)
        return client


def close_clients() -> None:
    """Close this process's connections to all servers, and with them all leases that it holds."""
    with _clients_lock:
        while _clients:
            _clients.popitem()[1].close()


def _forget_clients() -> None:
    """In the child of a fork: let go of the parent's connections, so that its end is their end."""
    global _clients_lock
    _clients_lock = threading.Lock()
    close_clients()


os.register_at_fork(after_in_child=_forget_clients)
atexit.register(close_clients)
