"""Programs: who is connected to the hot server, what they lease, and which snapshots they keep.

Invariants:
- A program gets a slab only by a token that the daemon gave it, or from a snapshot of its own user.
- The end of a connection ends its leases.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import MemfsError, NotPermittedError
from memfs.hot.devices.memfd import SEALS
from memfs.hot.pool import LAYOUTS, EntryState, SlabKey
from memfs.hot.protocol import (
    HotGoneError,
    HotMissError,
    HotTimeoutError,
    ProtocolError,
    error_reply,
    number_in,
    peer_uid,
    receive_async,
    send_async,
)
from memfs.hot.reports import describe_pool
from memfs.hot.slabs import Layout
from memfs.hot.tensors import PRECISIONS
from memfs.linux.accepting import Acceptor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from memfs.hot.loading import Loader, Resident
    from memfs.hot.pool import Entry
    from memfs.hot.tokens import Claim, Gate

log = logging.getLogger(__name__)

LEASES_A_CONNECTION_MAX = 100_000
SNAPSHOT_COUNT_MAX = 1024
WAIT_S_MAX = 3600.0
"""A program waits for a file to be loaded at most so long."""

Answer = tuple[dict[str, object], list[int]]
"""A reply, and the descriptors that ride with it, which are closed when it is sent."""


class _Waiting(NamedTuple):
    """Programs wait for a file to be loaded."""

    event: trio.Event
    errors: list[MemfsError]
    """Why it is not, if it is not."""


class _Snapshot(NamedTuple):
    """Slabs that are kept, by what their owner calls them."""

    uid: int
    """Whose it is: only this user, and root, get at it."""
    keys: dict[str, SlabKey]


class _Connection:
    """One program."""

    def __init__(self, stream: trio.socket.SocketType) -> None:
        self.stream = stream
        self.uid = peer_uid(stream)
        self.leases: dict[int, Entry] = {}


class Programs:
    """Serves programs.

    Args:
        loader: Has the pool and the slabs.
        gate: Takes tokens.
        demand: Asks the daemon for a file, on a device or any; `end_waiting` answers.
    """

    def __init__(
        self,
        loader: Loader,
        gate: Gate,
        demand: Callable[[SlabKey, object], Awaitable[None]],
    ) -> None:
        self._loader = loader
        self._pool = loader.pool
        self._gate = gate
        self._ask_daemon = demand
        self._lease_numbers = itertools.count(1)
        self._waiting: dict[tuple[int, int], _Waiting] = {}
        self._snapshots: dict[str, _Snapshot] = {}
        self.attach_count = 0

    def stats(self) -> dict[str, object]:
        """Return budgets, slabs and counters."""
        return {
            **describe_pool(self._loader),
            "snapshots": sorted(self._snapshots),
            "attach_count": self.attach_count,
        }

    async def accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        """Serve all programs that connect, until cancelled."""
        acceptor = Acceptor(listener, "hot server")
        while True:
            nursery.start_soon(self._serve_program, await acceptor.accept())

    async def _serve_program(self, stream: trio.socket.SocketType) -> None:
        connection = _Connection(stream)
        try:
            while True:
                packet = await receive_async(stream)
                packet.close()
                await self._answer_program(connection, packet.message)
        except (ProtocolError, HotGoneError, OSError) as error:
            log.debug("a connection of user %d ended: %s", connection.uid, error)
        finally:
            for entry in connection.leases.values():
                self._loader.release(entry)
            stream.close()

    async def _answer_program(self, connection: _Connection, message: dict[str, object]) -> None:
        calls: dict[str, Callable[..., Awaitable[Answer]]] = {
            "attach": self._attach,
            "release": self._release,
            "stats": self._program_stats,
            "snapshot": self._snapshot,
            "attach_snapshot": self._attach_snapshot,
            "drop_snapshot": self._drop_snapshot,
        }
        fds: list[int] = []
        try:
            call = calls.get(str(message.get("op")))
            if call is None:
                raise ProtocolError(f"there is no call {message.get('op')!r}")
            reply, fds = await call(connection, message)
        except MemfsError as error:
            reply = error_reply(error)
        except (KeyError, TypeError, ValueError) as error:
            reply = error_reply(ProtocolError(f"{message.get('op')}: {error!r}"))
        try:
            await send_async(connection.stream, {"id": message.get("id"), **reply}, fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def _attach(self, connection: _Connection, message: dict[str, object]) -> Answer:
        if len(connection.leases) >= LEASES_A_CONNECTION_MAX:
            raise ProtocolError("too many leases on one connection")
        claim = self._gate.redeem(str(message["token"]), connection.uid)
        layout = _layout(message)
        with trio.move_on_after(min(WAIT_S_MAX, float(str(message["timeout_s"])))) as waited:
            base = await self._base(claim, message)
            # Nothing suspends between the view and its lease.
            return self._lease(connection, await self._loader.variant(base, layout))
        assert waited.cancelled_caught, "only the deadline leads here"
        raise HotTimeoutError(f"inode {claim.ino} was not loaded in time")

    async def _attach_snapshot(self, connection: _Connection, message: dict[str, object]) -> Answer:
        if len(connection.leases) >= LEASES_A_CONNECTION_MAX:
            raise ProtocolError("too many leases on one connection")
        name, label = str(message["name"]), str(message["label"])
        key = self._own_snapshot(connection, name).keys.get(label)
        entry = None if key is None else self._pool.get(key)
        if entry is None:
            raise HotMissError(f"snapshot {name!r} has nothing that is called {label!r}")
        base = self._loader.resident(entry)
        return self._lease(connection, await self._loader.variant(base, _layout(message)))

    def _own_snapshot(self, connection: _Connection, name: str) -> _Snapshot:
        snapshot = self._snapshots.get(name)
        if snapshot is None:
            raise HotMissError(f"there is no snapshot {name!r}")
        if connection.uid not in (0, snapshot.uid):
            raise NotPermittedError(f"snapshot {name!r} is another user's")
        return snapshot

    def _lease(self, connection: _Connection, resident: Resident) -> Answer:
        """Return the reply to an attachment, with the descriptors of slab and index."""
        slab_fd = resident.slab.export()
        try:
            index_fd = _index_fd(resident.encoded)
        except BaseException:
            os.close(slab_fd)
            raise
        lease, entry = next(self._lease_numbers), resident.entry
        self._pool.attach(entry)
        connection.leases[lease] = entry
        self.attach_count += 1
        reply: dict[str, object] = {
            "lease": lease,
            "kind": self._loader.device(entry).kind,
            "uuid": entry.device,
            "size_bytes": resident.slab.size_bytes,
            "generation": entry.key.generation,
            "report": resident.report._asdict(),
        }
        return reply, [slab_fd, index_fd]

    async def _base(self, claim: Claim, message: dict[str, object]) -> Resident:
        """Return the slab of a file as it is, waiting for it if that is asked for."""
        key = SlabKey(claim.ino, claim.generation)
        entry_now = self._pool.get(key)
        if entry_now is None or entry_now.state != EntryState.READY:
            if not message.get("demand"):
                raise HotMissError(f"inode {claim.ino} is not in the hot tier")
            await self._demand(key, message.get("device"))
            entry_now = self._pool.get(key)
        if entry_now is None or entry_now.state != EntryState.READY:
            raise HotMissError(f"inode {claim.ino} left the hot tier again, or was rewritten")
        return self._loader.resident(entry_now)

    async def _demand(self, key: SlabKey, device: object) -> None:
        """Have the daemon load a file, and wait for it."""
        name = (key.ino, key.generation)
        waiting = self._waiting.get(name)
        if waiting is None:
            waiting = self._waiting[name] = _Waiting(trio.Event(), [])
            await self._ask_daemon(key, device)
        await waiting.event.wait()
        if waiting.errors:
            raise waiting.errors[0]

    def end_waiting(self, key: SlabKey, error: MemfsError | None) -> None:
        """Tell the programs that wait for a file that it is loaded, or why it is not."""
        waiting = self._waiting.pop((key.ino, key.generation), None)
        if waiting is not None:
            if error is not None:
                waiting.errors.append(error)
            waiting.event.set()

    async def _release(self, connection: _Connection, message: dict[str, object]) -> Answer:
        entry = connection.leases.pop(number_in(message, "lease"), None)
        if entry is not None:
            self._loader.release(entry)
        return {}, []

    async def _program_stats(self, connection: _Connection, message: dict[str, object]) -> Answer:
        return self.stats(), []

    async def _snapshot(self, connection: _Connection, message: dict[str, object]) -> Answer:
        name, tokens = str(message["name"]), message["tokens"]
        if not isinstance(tokens, dict):
            raise ProtocolError("tokens: not tokens by labels")
        if name in self._snapshots:
            self._own_snapshot(connection, name)
        elif len(self._snapshots) >= SNAPSHOT_COUNT_MAX:
            raise NotPermittedError(f"there are {SNAPSHOT_COUNT_MAX} snapshots already")
        found: dict[str, Entry] = {}
        for label, token in tokens.items():
            claim = self._gate.redeem(str(token), connection.uid)
            entry = self._pool.get(SlabKey(claim.ino, claim.generation))
            if entry is None or entry.state != EntryState.READY:
                raise HotMissError(f"{label} (inode {claim.ino}) is not in the hot tier")
            found[label] = entry
        snapshot = self._snapshots.setdefault(name, _Snapshot(connection.uid, {}))
        for label, entry in found.items():
            self._pool.keep(entry, name)
            snapshot.keys[label] = entry.key
        size_bytes = sum(entry.size_bytes for entry in found.values())
        return {"size_bytes": size_bytes, "count": len(found)}, []

    async def _drop_snapshot(self, connection: _Connection, message: dict[str, object]) -> Answer:
        name = str(message["name"])
        self._own_snapshot(connection, name)
        del self._snapshots[name]
        self._loader.forget_snapshot(name)
        return {}, []


def _layout(message: Mapping[str, object]) -> Layout:
    dtype, layout = str(message.get("dtype") or ""), str(message.get("layout") or "")
    if dtype and dtype not in PRECISIONS:
        raise ProtocolError(f"dtype {dtype!r} is none of {', '.join(PRECISIONS)}")
    if layout not in LAYOUTS:
        raise ProtocolError(f"layout {layout!r} is not known")
    return Layout(dtype, layout)


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
