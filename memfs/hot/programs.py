"""Programs: who is connected to the hot server, what they lease, and which snapshots they keep.

Invariants:
- A program gets a slab only by a token that the daemon gave it, or from a snapshot of its own user.
- The end of a connection ends its leases.
- Whatever a program sends, and whatever fails in answering it, ends its own connection at most.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError
from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.memfd import SEALS
from memfs.hot.pool import SlabKey, SlabState
from memfs.hot.protocol import (
    HotGoneError,
    HotMissError,
    HotTimeoutError,
    ProtocolError,
    error_reply,
    peer_uid,
    receive_async,
    send_async,
)
from memfs.hot.reports import describe_pool, list_slabs, list_snapshots
from memfs.hot.requests import (
    read_attach,
    read_attach_snapshot,
    read_call,
    read_id,
    read_lease,
    read_snapshot,
    read_snapshot_name,
)
from memfs.hot.snapshots import ROOT_UID, Snapshots
from memfs.linux.accepting import Acceptor
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.hot.loading import LoadedSlab, Loader
    from memfs.hot.pool import SlabInfo
    from memfs.hot.requests import Attach
    from memfs.hot.tokens import Claim, TokenVerifier

log = logging.getLogger(__name__)

LEASES_A_CONNECTION_MAX = 100_000

CONNECTIONS_A_USER_MAX = 1024
"""A process has one. Guess: the processes of a large machine, and far below the descriptors that a
server has, so that nobody takes them from the others."""

Answer = tuple[dict[str, object], list[int]]
"""A reply, and the descriptors that ride with it, which are closed when it is sent."""


class _Demand:
    """Programs wait for a file to be loaded.

    Args:
        device: The first of them asked for; None: any.
    """

    def __init__(self, device: str | None) -> None:
        self.device = device
        self.ended = trio.Event()
        self.error: MemfsError | None = None
        """Why it is not, if it is not."""
        self.program_count = 0


class _Connection:
    """One program."""

    def __init__(self, stream: trio.socket.SocketType, uid: int) -> None:
        self.stream = stream
        self.uid = uid
        self.leases: dict[int, SlabInfo] = {}


class Programs:
    """Serves programs.

    Args:
        loader: Has the pool and the slabs.
        verifier: Takes tokens.
        demand: Asks the daemon for a file, on a device or any; `end_waiting` answers.
    """

    def __init__(
        self,
        loader: Loader,
        verifier: TokenVerifier,
        demand: Callable[[SlabKey, str | None], Awaitable[None]],
    ) -> None:
        self._loader = loader
        self._pool = loader.pool
        self._verifier = verifier
        self._ask_daemon = demand
        self._lease_numbers = itertools.count(1)
        self._demands: dict[tuple[int, int], _Demand] = {}
        """By inode and generation; each has a program that waits."""
        self._snapshots = Snapshots(self._pool)
        self._connections: set[_Connection] = set()
        self.attach_count = 0
        self.attached_bytes = 0
        """Sizes of the slabs, each as often as it was attached to."""
        self.attached = Signal()
        """Set by an attach; replaced by who has seen it."""

    def stats(self, uid: int = ROOT_UID) -> dict[str, object]:
        """Return capacities and counters, with the slabs and snapshots that a user may open.

        Args:
            uid: That of the user; those of all users are root's to see.
        """
        slabs = list(self._pool) if uid == ROOT_UID else self._opened_by(uid)
        snapshots = self._snapshots.describe(uid)
        shown = {snapshot.name for snapshot in snapshots}
        return {
            **describe_pool(self._loader),
            "slab_count": len(slabs),
            "lease_count": sum(slab.lease_count for slab in slabs),
            "slabs": list_slabs(slabs, shown),
            "snapshots": list_snapshots(snapshots),
            "snapshot_count": len(snapshots),
            "attach_count": self.attach_count,
        }

    def _opened_by(self, uid: int) -> list[SlabInfo]:
        """Return what programs of a user lease, and what the user's snapshots keep."""
        leased = {
            slab
            for connection in self._connections
            if connection.uid == uid
            for slab in connection.leases.values()
        }
        own = self._snapshots.names(uid)
        return [slab for slab in self._pool if slab in leased or not own.isdisjoint(slab.snapshots)]

    def list_snapshots(self) -> list[dict[str, object]]:
        """Return the snapshots of all users, the largest first, as many as a packet holds."""
        return list_snapshots(self._snapshots.describe())

    def drop_snapshot(self, name: str, uid: int = ROOT_UID) -> None:
        """Let a snapshot go.

        Raises:
            HotMissError: Nothing has that name.
            NotPermittedError: It is not the user's.
        """
        self._snapshots.forget(uid, name)
        self._loader.forget_snapshot(name)

    async def accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        """Serve all programs that connect, until cancelled."""
        acceptor = Acceptor(listener, "hot server")
        while True:
            nursery.start_soon(self._serve_program, await acceptor.accept())

    async def _serve_program(self, stream: trio.socket.SocketType) -> None:
        with stream:
            try:
                uid = peer_uid(stream)
            except OSError as error:
                log.debug("a connection ended at once: %s", error)
                return
            if sum(each.uid == uid for each in self._connections) >= CONNECTIONS_A_USER_MAX:
                log.debug("user %d has %d connections already", uid, CONNECTIONS_A_USER_MAX)
                return
            connection = _Connection(stream, uid)
            self._connections.add(connection)
            try:
                await self._serve_connection(connection)
            finally:
                self._connections.discard(connection)

    async def _serve_connection(self, connection: _Connection) -> None:
        try:
            while True:
                packet = await receive_async(connection.stream)
                packet.close()
                await self._answer_program(connection, packet.message)
        except (ProtocolError, HotGoneError, OSError) as error:
            log.debug("a connection of user %d ended: %s", connection.uid, error)
        except Exception:
            # A defect: its program sees the end of its connection, and the others nothing.
            log.exception("a connection of user %d ended by a defect", connection.uid)
        finally:
            for slab in connection.leases.values():
                self._loader.release(slab)

    async def _answer_program(self, connection: _Connection, message: dict[str, object]) -> None:
        calls: dict[str, Callable[[_Connection, dict[str, object]], Awaitable[Answer]]] = {
            "attach": self._attach,
            "release": self._release,
            "stats": self._program_stats,
            "snapshot": self._snapshot,
            "attach_snapshot": self._attach_snapshot,
            "drop_snapshot": self._drop_snapshot,
        }
        # Without a number an answer is of no use.
        number = read_id(message)
        fds: list[int] = []
        try:
            call = calls.get(name := read_call(message))
            if call is None:
                raise ProtocolError(f"there is no call {name!r}")
            reply, fds = await call(connection, message)
        except MemfsError as error:
            reply = error_reply(error)
        try:
            await send_async(connection.stream, {"id": number, **reply}, fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def _attach(self, connection: _Connection, message: dict[str, object]) -> Answer:
        wish = read_attach(message)
        if len(connection.leases) >= LEASES_A_CONNECTION_MAX:
            raise ProtocolError("too many leases on one connection")
        if wish.device is not None and wish.device not in self._loader.devices:
            raise DeviceError(f"this hot tier has no device {wish.device!r}")
        claim = self._verifier.redeem(wish.token, connection.uid)
        with trio.move_on_after(wish.timeout_s) as waited:
            base = await self._base(claim, wish)
            # Nothing suspends between the variant and its lease.
            return self._lease(connection, await self._loader.variant(base, wish.layout))
        assert waited.cancelled_caught, "only the deadline leads here"
        raise HotTimeoutError(f"inode {claim.ino} was not loaded in time")

    async def _attach_snapshot(self, connection: _Connection, message: dict[str, object]) -> Answer:
        wish = read_attach_snapshot(message)
        if len(connection.leases) >= LEASES_A_CONNECTION_MAX:
            raise ProtocolError("too many leases on one connection")
        slab = self._snapshots.find(connection.uid, wish.name, wish.label)
        base = self._loader.loaded(slab)
        return self._lease(connection, await self._loader.variant(base, wish.layout))

    def _lease(self, connection: _Connection, loaded: LoadedSlab) -> Answer:
        """Return the reply to who leases a slab, with the descriptors of slab and index."""
        slab_fd = loaded.memory.export()
        try:
            index_fd = _index_fd(loaded.encoded)
        except BaseException:
            os.close(slab_fd)
            raise
        number, slab = next(self._lease_numbers), loaded.info
        self._pool.attach(slab)
        connection.leases[number] = slab
        self.attach_count += 1
        self.attached_bytes += loaded.memory.size_bytes
        self.attached.set()
        reply: dict[str, object] = {
            "lease": number,
            "kind": self._loader.device(slab).kind,
            "uuid": slab.device,
            "size_bytes": loaded.memory.size_bytes,
            "generation": slab.key.generation,
            "report": loaded.report._asdict(),
        }
        return reply, [slab_fd, index_fd]

    async def _base(self, claim: Claim, wish: Attach) -> LoadedSlab:
        """Return the slab of a file as it is, waiting for it if that is asked for."""
        key = SlabKey(claim.ino, claim.generation)
        slab = self._pool.get(key)
        if slab is None or slab.state != SlabState.READY:
            if not wish.demand:
                raise HotMissError(f"inode {claim.ino} is not in the hot tier")
            await self._demand(key, wish.device)
            slab = self._pool.get(key)
        if slab is None or slab.state != SlabState.READY:
            raise HotMissError(f"inode {claim.ino} left the hot tier again, or was rewritten")
        return self._loader.loaded(slab)

    async def _demand(self, key: SlabKey, device: str | None) -> None:
        """Have the daemon load a file, and wait for it.

        It is asked by each program: it may have dropped what the one before asked for.
        """
        name = (key.ino, key.generation)
        demand = self._demands.setdefault(name, _Demand(device))
        demand.program_count += 1
        try:
            await self._ask_daemon(key, demand.device)
            await demand.ended.wait()
        finally:
            demand.program_count -= 1
            if not demand.program_count and self._demands.get(name) is demand:
                del self._demands[name]
        if demand.error is not None:
            raise demand.error

    def end_waiting(self, key: SlabKey, error: MemfsError | None) -> None:
        """Tell the programs that wait for a file that it is loaded, or why it is not."""
        demand = self._demands.pop((key.ino, key.generation), None)
        if demand is not None:
            demand.error = error
            demand.ended.set()

    async def _release(self, connection: _Connection, message: dict[str, object]) -> Answer:
        slab = connection.leases.pop(read_lease(message), None)
        if slab is not None:
            self._loader.release(slab)
        return {}, []

    async def _program_stats(self, connection: _Connection, message: dict[str, object]) -> Answer:
        return self.stats(connection.uid), []

    async def _snapshot(self, connection: _Connection, message: dict[str, object]) -> Answer:
        wish = read_snapshot(message)
        self._snapshots.check(connection.uid, wish.name, len(wish.tokens))
        found: dict[str, SlabInfo] = {}
        for label, token in wish.tokens.items():
            claim = self._verifier.redeem(token, connection.uid)
            slab = self._pool.get(SlabKey(claim.ino, claim.generation))
            if slab is None or slab.state != SlabState.READY:
                raise HotMissError(f"{label} (inode {claim.ino}) is not in the hot tier")
            found[label] = slab
        self._snapshots.add(connection.uid, wish.name, found)
        size_bytes = sum(slab.size_bytes for slab in found.values())
        return {"size_bytes": size_bytes, "count": len(found)}, []

    async def _drop_snapshot(self, connection: _Connection, message: dict[str, object]) -> Answer:
        self.drop_snapshot(read_snapshot_name(message), connection.uid)
        return {}, []


def _index_fd(content: bytes) -> int:
    """Return a sealed memfd with some bytes."""
    fd = os.memfd_create("memfs-index", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
