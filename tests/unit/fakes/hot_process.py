"""A hot server's real process, and a daemon in this one that serves files of any file system.

Invariant: what is between the two is the daemon's own: supervisor, link and board.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import trio

from memfs.config import HotConfig
from memfs.errors import MemfsError
from memfs.hot.board import HotBoard, Want
from memfs.hot.client import HotClient
from memfs.hot.environment import child_environment
from memfs.hot.protocol import error_reply
from memfs_daemon.hot.supervisor import HotSupervisor
from tests.waiting import join

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

GENERATION = 7


class HotProcess:
    """Loads files when programs ask for them.

    Args:
        state_dir: Any directory; it only names the process.
        size_bytes: Capacity of its one device.
    """

    def __init__(self, state_dir: Path, size_bytes: int = 8 << 20) -> None:
        config = HotConfig(devices=("cpu",), size_bytes=size_bytes, reserve_bytes=0)
        self._config = config
        self._state_dir = state_dir
        self._paths: dict[int, Path] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._serve), name="daemon")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._trio_token)
        join(self._thread)

    @property
    def start_count(self) -> int:
        """How many servers there have been."""
        return self._supervisor.start_count

    @property
    def pid(self) -> int:
        """That of the server."""
        assert self._supervisor.pid is not None
        return self._supervisor.pid

    def token(self, path: Path, uid: int | None = None) -> str:
        """Return a token for a file."""
        ino = path.stat().st_ino
        self._paths[ino] = path
        assert self._board.server is not None
        return self._board.server.signer.sign(ino, GENERATION, os.getuid() if uid is None else uid)

    def connect(self) -> HotClient:
        """Return a new connection."""
        assert self._board.server is not None
        return HotClient.connect(self._board.server.address, os.geteuid())

    def address(self) -> str:
        """Return where it listens."""
        assert self._board.server is not None
        return self._board.server.address

    def call(self, op: str, **fields: object) -> dict[str, object]:
        """Call the server as its daemon."""

        async def call() -> dict[str, object]:
            return await self._supervisor.call(op, **fields)

        return trio.from_thread.run(call, trio_token=self._trio_token)

    async def _serve(self) -> None:
        self._trio_token = trio.lowlevel.current_trio_token()
        self._board = HotBoard()
        self._supervisor = HotSupervisor(
            self._config,
            self._state_dir,
            self._board,
            self._ready.set,
            lambda _count, _bytes: None,
            child_environment(os.environ),
        )
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._supervisor.run)
                while True:
                    want = self._board.take_wanted()
                    if want is None:
                        await self._board.wait()
                    else:
                        await self._bring(want)

    async def _bring(self, want: Want) -> None:
        key: dict[str, object] = {"ino": want.ino, "generation": want.generation}
        call = self._supervisor.call
        path = self._paths[want.ino]
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        file = {"name": str(path), "tensor_dtype": None, "tensor_shape": None}
        try:
            await call("load", fd, **key, **file, priority=50, pinned=False, device=want.device)
            await call("publish", **key)
        except MemfsError as error:
            with contextlib.suppress(MemfsError):
                await call("refuse", **key, **error_reply(error))
        finally:
            os.close(fd)
