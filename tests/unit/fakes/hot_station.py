"""A hot server in this process, for files of any file system.

Invariant: a file's ticket is an extended attribute that the station sets, as the daemon would give
it; the server, its tokens and its slabs are the real ones.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError
from memfs.hot.client import TICKET_XATTR
from memfs.hot.devices.memfd import MemfdDevice
from memfs.hot.headers import HeaderReader
from memfs.hot.loading import Loader, LoadRequest
from memfs.hot.pool import DeviceCapacity, Pool, SlabKey
from memfs.hot.protocol import HotGoneError, error_reply, receive_async, send_async
from memfs.hot.server import HotServer, listen
from memfs.hot.tokens import TokenSigner, TokenVerifier
from tests.waiting import join

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

GENERATION = 7


class HotStation:
    """Serves files that `give` was called for.

    Args:
        size_bytes: Capacity of its one device.
    """

    def __init__(self, size_bytes: int = 8 << 20) -> None:
        secret = secrets.token_bytes(32)
        self.address = f"memfs-test-{os.getpid()}-{secrets.token_hex(6)}"
        self.answers = True
        """False: a file that is asked for never comes."""
        self.uuids = ["CPU-0"]
        """What tickets say that the tier has."""
        self._signer = TokenSigner(secret)
        device = MemfdDevice(0, size_bytes)
        self.pool = Pool([DeviceCapacity(device.uuid, size_bytes)])
        self._loader = Loader(self.pool, [device], 0, HeaderReader(os.environ))
        self._verifier = TokenVerifier(secret)
        self._paths: dict[int, Path] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._serve), name="station")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; idempotent."""
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
            join(self._thread)

    def give(self, path: Path, *, resident: bool = True) -> None:
        """Give a file its next ticket; a token is good once.

        Args:
            path: A file of tensors.
            resident: It is on the device; else it is loaded when a program asks for it.
        """
        ino = path.stat().st_ino
        self._paths[ino] = path
        if resident and self.pool.get(SlabKey(ino, GENERATION)) is None:
            trio.from_thread.run(self._load, ino, trio_token=self._token)
        ticket = {
            "address": self.address,
            "uid": os.getuid(),
            "token": self._signer.sign(ino, GENERATION, os.getuid()),
            "generation": GENERATION,
            "resident": resident,
            "kind": "cpu",
            "uuids": self.uuids,
        }
        os.setxattr(path, TICKET_XATTR, json.dumps(ticket).encode())

    def leases(self) -> int:
        """Return how many slabs are leased, counted by lease."""
        return sum(entry.lease_count for entry in self.pool)

    async def _serve(self) -> None:
        ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = await listen(self.address)
        self._token = trio.lowlevel.current_trio_token()
        with ours, theirs, listener, trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(HotServer(self._loader, self._verifier, theirs).run, listener)
                self._daemon = ours
                self._ready.set()
                await self._answer(ours)

    async def _answer(self, daemon: trio.socket.SocketType) -> None:
        while True:
            try:
                packet = await receive_async(daemon)
            except HotGoneError:
                return
            ino = packet.message.get("ino")
            if packet.message.get("event") == "wanted" and self.answers:
                assert isinstance(ino, int)
                try:
                    await self._load(ino)
                except MemfsError as error:
                    await send_async(daemon, {"op": "refuse", **_key(ino), **error_reply(error)})

    async def _load(self, ino: int) -> None:
        key, path = SlabKey(ino, GENERATION), self._paths[ino]
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._loader.load(LoadRequest(key, fd, str(path), None, None, 50, True, None))
        finally:
            os.close(fd)
        self._loader.publish(key)
        await send_async(self._daemon, {"op": "publish", **_key(ino)})


def _key(ino: int) -> dict[str, object]:
    return {"ino": ino, "generation": GENERATION}
