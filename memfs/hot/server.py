"""The hot server: owns the devices, loads what the daemon sends, and lets programs attach.

Invariants:
- One thread changes the pool; worker threads only fill slabs that nobody else knows yet.
- What is published was loaded from the raw file of that generation, which the daemon has confirmed.
- The end of a connection ends its leases; the end of the daemon's ends the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import MemfsError, NotPermittedError
from memfs.hot.loading import Loader, LoadRequest
from memfs.hot.pool import EntryState, SlabKey
from memfs.hot.protocol import (
    HotGoneError,
    HotMissError,
    HotTimeoutError,
    Packet,
    ProtocolError,
    error_reply,
    peer_uid,
    raise_error,
    receive_async,
    send_async,
)
from memfs.hot.reports import describe_pool
from memfs.hot.slabs import Layout
from memfs.hot.tensors import PRECISIONS, dump_index

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from memfs.hot.loading import Resident
    from memfs.hot.pool import Entry
    from memfs.hot.tokens import Claim, Gate

log = logging.getLogger(__name__)

LEASES_A_CONNECTION_MAX = 100_000
SNAPSHOT_COUNT_MAX = 1024
BACKLOG = 128
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

WAIT_S_MAX = 3600.0
"""A program waits for a file to be loaded at most so long."""


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


class HotServer:
    """Serves one daemon and any number of programs.

    Args:
        loader: Has the pool and the slabs.
        gate: Takes tokens.
        daemon: The daemon's connection: SOCK_SEQPACKET.
    """

    def __init__(self, loader: Loader, gate: Gate, daemon: trio.socket.SocketType) -> None:
        self._loader = loader
        self._pool = loader.pool
        self._gate = gate
        self._daemon = daemon
        self._daemon_lock = trio.Lock()
        self._lease_numbers = itertools.count(1)
        self._waiting: dict[tuple[int, int], _Waiting] = {}
        self._snapshots: dict[str, _Snapshot] = {}
        self._daemon_calls: dict[str, Callable[[Packet], Awaitable[dict[str, object]]]] = {
            "load": self._load,
            "publish": self._publish,
            "discard": self._discard,
            "refuse": self._refuse,
            "evict": self._evict,
            "mark": self._mark,
            "stats": self._stats,
        }
        self.attach_count = 0

    async def run(self, listener: trio.socket.SocketType) -> None:
        """Serve until the daemon closes its connection.

        Args:
            listener: Bound; for programs.
        """
        listener.listen(BACKLOG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._accept, listener, nursery)
            nursery.start_soon(self._report_evictions)
            await self._serve_daemon(nursery)
            nursery.cancel_scope.cancel()

    # --- the daemon ------------------------------------------------------------------------------
    async def _serve_daemon(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                packet = await receive_async(self._daemon)
            except (HotGoneError, OSError):
                return
            nursery.start_soon(self._answer_daemon, packet)

    async def _answer_daemon(self, packet: Packet) -> None:
        call = str(packet.message.get("op"))
        try:
            reply = await self._daemon_calls[call](packet)
        except MemfsError as error:
            reply = error_reply(error)
        except (KeyError, TypeError, ValueError) as error:
            reply = error_reply(ProtocolError(f"{call}: {error!r}"))
        finally:
            packet.close()
        await self._tell_daemon({"id": packet.message.get("id"), **reply})

    async def _tell_daemon(self, message: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            async with self._daemon_lock:
                await send_async(self._daemon, message)

    async def _load(self, packet: Packet) -> dict[str, object]:
        message = packet.message
        [fd] = packet.fds
        device = message.get("device")
        request = LoadRequest(
            key=_key(message),
            fd=fd,
            name=str(message["name"]),
            dtype=_optional(message, "tensor_dtype"),
            shape=_optional(message, "tensor_shape"),
            priority=_number(message, "priority"),
            pinned=bool(message["pinned"]),
            device=None if device is None else str(device),
        )
        resident = await self._loader.load(request)
        return {
            "device": resident.entry.device,
            "size_bytes": resident.entry.size_bytes,
            "tensor_count": len(resident.tensors.tensors),
        }

    async def _publish(self, packet: Packet) -> dict[str, object]:
        key = _key(packet.message)
        self._loader.publish(key)
        self._end_waiting(key, None)
        return {}

    async def _discard(self, packet: Packet) -> dict[str, object]:
        self._loader.discard(_key(packet.message))
        return {}

    async def _refuse(self, packet: Packet) -> dict[str, object]:
        try:
            raise_error(packet.message)
        except MemfsError as error:
            self._end_waiting(_key(packet.message), error)
        return {}

    async def _evict(self, packet: Packet) -> dict[str, object]:
        self._loader.evict(_number(packet.message, "ino"))
        return {}

    async def _mark(self, packet: Packet) -> dict[str, object]:
        message = packet.message
        pinned = bool(message["pinned"])
        self._pool.mark(_number(message, "ino"), _number(message, "priority"), pinned=pinned)
        return {}

    async def _stats(self, packet: Packet) -> dict[str, object]:
        return self.stats()

    async def _report_evictions(self) -> None:
        """Tell the daemon which files have left."""
        while True:
            key = await self._loader.next_gone()
            await self._tell_daemon({"event": "gone", "ino": key.ino, "generation": key.generation})

    def stats(self) -> dict[str, object]:
        """Return budgets, slabs and counters."""
        return {
            **describe_pool(self._loader),
            "snapshots": sorted(self._snapshots),
            "attach_count": self.attach_count,
        }

    # --- programs --------------------------------------------------------------------------------
    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream, _ = await listener.accept()
            except OSError as error:
                # No descriptor is left: others may end.
                log.warning("a program could not be served: %s", error)
                await trio.sleep(0.1)
                continue
            nursery.start_soon(self._serve_program, stream)

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
        calls: dict[str, Callable[..., Awaitable[tuple[dict[str, object], list[int]]]]] = {
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

    async def _attach(
        self, connection: _Connection, message: dict[str, object]
    ) -> tuple[dict[str, object], list[int]]:
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

    async def _attach_snapshot(
        self, connection: _Connection, message: dict[str, object]
    ) -> tuple[dict[str, object], list[int]]:
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

    def _lease(
        self, connection: _Connection, resident: Resident
    ) -> tuple[dict[str, object], list[int]]:
        """Return the reply to an attachment, with the descriptors of slab and index."""
        slab_fd = resident.slab.export()
        try:
            index_fd = _index_fd(json.dumps(dump_index(resident.tensors)).encode())
        except BaseException:
            os.close(slab_fd)
            raise
        lease = next(self._lease_numbers)
        self._pool.attach(resident.entry)
        connection.leases[lease] = resident.entry
        self.attach_count += 1
        entry = resident.entry
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
            await self._tell_daemon(
                {
                    "event": "wanted",
                    "ino": key.ino,
                    "generation": key.generation,
                    "device": device,
                }
            )
        await waiting.event.wait()
        if waiting.errors:
            raise waiting.errors[0]

    def _end_waiting(self, key: SlabKey, error: MemfsError | None) -> None:
        waiting = self._waiting.pop((key.ino, key.generation), None)
        if waiting is not None:
            if error is not None:
                waiting.errors.append(error)
            waiting.event.set()

    async def _release(
        self, connection: _Connection, message: dict[str, object]
    ) -> tuple[dict[str, object], list[int]]:
        entry = connection.leases.pop(_number(message, "lease"), None)
        if entry is not None:
            self._loader.release(entry)
        return {}, []

    async def _program_stats(
        self, connection: _Connection, message: dict[str, object]
    ) -> tuple[dict[str, object], list[int]]:
        return self.stats(), []

    async def _snapshot(
        self, connection: _Connection, message: dict[str, object]
    ) -> tuple[dict[str, object], list[int]]:
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

    async def _drop_snapshot(
        self, connection: _Connection, message: dict[str, object]
    ) -> tuple[dict[str, object], list[int]]:
        name = str(message["name"])
        self._own_snapshot(connection, name)
        del self._snapshots[name]
        self._loader.forget_snapshot(name)
        return {}, []


def _key(message: Mapping[str, object]) -> SlabKey:
    return SlabKey(_number(message, "ino"), _number(message, "generation"))


def _layout(message: Mapping[str, object]) -> Layout:
    dtype, layout = str(message.get("dtype") or ""), str(message.get("layout") or "")
    if dtype and dtype not in PRECISIONS:
        raise ProtocolError(f"dtype {dtype!r} is none of {', '.join(PRECISIONS)}")
    if layout not in ("", "channels_last"):
        raise ProtocolError(f"layout {layout!r} is not known")
    return Layout(dtype, layout)


def _number(message: Mapping[str, object], name: str) -> int:
    value = message[name]
    if not isinstance(value, int):
        raise ProtocolError(f"{name}: not a number")
    return value


def _optional(message: Mapping[str, object], name: str) -> str | None:
    value = message.get(name)
    return None if value is None else str(value)


def _index_fd(content: bytes) -> int:
    """Return a sealed memfd with some bytes."""
    fd = os.memfd_create("memfs-index", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


async def listen(address: str) -> trio.socket.SocketType:
    """Return a socket that is bound to an abstract address (unix(7)), for `HotServer.run`."""
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    await listener.bind(f"\0{address}")
    return listener
