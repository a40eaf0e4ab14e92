"""The hot server: owns the devices, loads what the daemon sends, and lets programs attach.

Invariants:
- One thread changes the pool; worker threads only fill slabs that nobody else knows yet.
- What is published was loaded from the raw file of that generation, which the daemon has confirmed.
- The end of a connection ends its leases; the end of the daemon's ends the server.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError
from memfs.hot.devices.device import DeviceError
from memfs.hot.loading import Loader, LoadRequest
from memfs.hot.pool import SlabKey
from memfs.hot.programs import Programs
from memfs.hot.protocol import (
    HotGoneError,
    Packet,
    ProtocolError,
    error_reply,
    number_in,
    raise_error,
    receive_async,
    send_async,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from memfs.hot.tokens import TokenVerifier

log = logging.getLogger(__name__)

BACKLOG = 128

IDLE_COUNT_MAX = 2048
"""Files that are told at a time of those that nobody uses, some 60 kB; the rest the next time."""

ATTACHES_S = 0.5
"""Attaches of so long are told together: a loader may make thousands a second. Guess."""


class HotServer:
    """Serves one daemon and any number of programs.

    Args:
        loader: Has the pool and the slabs.
        verifier: Takes tokens.
        daemon: The daemon's connection: SOCK_SEQPACKET.
    """

    def __init__(
        self, loader: Loader, verifier: TokenVerifier, daemon: trio.socket.SocketType
    ) -> None:
        self._loader = loader
        self._pool = loader.pool
        self._daemon = daemon
        self._daemon_lock = trio.Lock()
        self._programs = Programs(loader, verifier, self._demand)
        self._daemon_calls: dict[str, Callable[[Packet], Awaitable[dict[str, object]]]] = {
            "load": self._load,
            "publish": self._publish,
            "discard": self._discard,
            "refuse": self._refuse,
            "evict": self._evict,
            "idle": self._idle,
            "expire": self._expire,
            "mark": self._mark,
            "stats": self._stats,
            "snapshots": self._snapshots,
            "drop_snapshot": self._drop_snapshot,
        }

    async def run(self, listener: trio.socket.SocketType) -> None:
        """Serve until the daemon closes its connection.

        Args:
            listener: That of `listen`; for programs.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._programs.accept, listener, nursery)
            nursery.start_soon(self._report_evictions)
            nursery.start_soon(self._report_attaches)
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
        except Exception as error:
            # A defect in dealing with one file is no reason to give up all others.
            log.exception("%s failed by a defect", call)
            reply = error_reply(DeviceError(f"{call}: {error!r}"))
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
            priority=number_in(message, "priority"),
            pinned=bool(message["pinned"]),
            device=None if device is None else str(device),
        )
        loaded = await self._loader.load(request)
        return {
            "device": loaded.info.device,
            "size_bytes": loaded.info.size_bytes,
            "tensor_count": loaded.tensor_count,
        }

    async def _publish(self, packet: Packet) -> dict[str, object]:
        key = _key(packet.message)
        self._loader.publish(key)
        self._programs.end_waiting(key, None)
        return {}

    async def _discard(self, packet: Packet) -> dict[str, object]:
        self._loader.discard(_key(packet.message))
        return {}

    async def _refuse(self, packet: Packet) -> dict[str, object]:
        try:
            raise_error(packet.message)
        except MemfsError as error:
            self._programs.end_waiting(_key(packet.message), error)
        return {}

    async def _evict(self, packet: Packet) -> dict[str, object]:
        self._loader.evict(number_in(packet.message, "ino"))
        return {}

    async def _idle(self, packet: Packet) -> dict[str, object]:
        idle = self._pool.idle(_seconds(packet.message, "idle_s_min"))
        longest = sorted(idle.items(), key=lambda each: -each[1])[:IDLE_COUNT_MAX]
        return {"inos": [ino for ino, _ in longest], "idle_s": [idle_s for _, idle_s in longest]}

    async def _expire(self, packet: Packet) -> dict[str, object]:
        message = packet.message
        left = self._loader.expire(number_in(message, "ino"), _seconds(message, "idle_s_min"))
        return {"left": left}

    async def _mark(self, packet: Packet) -> dict[str, object]:
        message = packet.message
        pinned = bool(message["pinned"])
        self._pool.mark(number_in(message, "ino"), number_in(message, "priority"), pinned=pinned)
        return {}

    async def _stats(self, packet: Packet) -> dict[str, object]:
        return self._programs.stats()

    async def _snapshots(self, packet: Packet) -> dict[str, object]:
        return {"snapshots": self._programs.list_snapshots()}

    async def _drop_snapshot(self, packet: Packet) -> dict[str, object]:
        self._programs.drop_snapshot(str(packet.message["name"]))
        return {}

    async def _demand(self, key: SlabKey, device: str | None) -> None:
        await self._tell_daemon(
            {"event": "wanted", "ino": key.ino, "generation": key.generation, "device": device}
        )

    async def _report_evictions(self) -> None:
        """Tell the daemon which files have left."""
        while True:
            key = await self._loader.next_gone()
            await self._tell_daemon({"event": "gone", "ino": key.ino, "generation": key.generation})

    async def _report_attaches(self) -> None:
        """Tell the daemon how many attaches there were, and of how much; many at a time."""
        programs, seen, count, size_bytes = self._programs, 0, 0, 0
        while True:
            await programs.attached.wait(seen)
            await trio.sleep(ATTACHES_S)
            seen = programs.attached.count
            news = {"count": programs.attach_count - count}
            news["bytes"] = programs.attached_bytes - size_bytes
            count, size_bytes = programs.attach_count, programs.attached_bytes
            await self._tell_daemon({"event": "attached", **news})


def _key(message: Mapping[str, object]) -> SlabKey:
    return SlabKey(number_in(message, "ino"), number_in(message, "generation"))


def _seconds(message: Mapping[str, object], name: str) -> float:
    value = message[name]
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is no number")
    return float(value)


def _optional(message: Mapping[str, object], name: str) -> str | None:
    value = message.get(name)
    return None if value is None else str(value)


async def listen(address: str) -> trio.socket.SocketType:
    """Return a socket that listens at an abstract address (unix(7)), for `HotServer.run`.

    Programs may connect from here on, before `run` was called: they wait in the backlog.
    """
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        await listener.bind(f"\0{address}")
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
