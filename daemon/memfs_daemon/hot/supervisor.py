"""The supervisor: starts the hot server, watches it, and starts it again.

Invariant: the server's end, for whatever reason, ends nothing else: the board says that nothing is
resident, and a new server is started after a pause that grows.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from memfs.backoff import Backoff
from memfs.errors import MemfsError
from memfs.hot.board import HotDevice, HotServerInfo, Want
from memfs.hot.link import HotLink
from memfs.hot.protocol import (
    HotGoneError,
    ProtocolError,
    number_in,
    raise_error,
    receive_async,
    send_async,
)
from memfs.hot.tokens import SECRET_BYTES, TokenSigner
from memfs.types import Generation, InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from memfs.config import HotConfig
    from memfs.hot.board import HotBoard

log = logging.getLogger(__name__)

START_S_MAX = 60.0
"""A server that serves no device by then is killed: initialising a GPU takes seconds. Guess."""

END_S_MAX = 5.0
"""A server whose daemon has gone ends at once, but for a copy to a device that is under way."""

RESTART_S_MIN, RESTART_S_MAX = 1.0, 60.0
"""Pauses before a new server is started; doubled with each that ends before it served so long."""


class HotSupervisor:
    """Keeps one hot server running.

    Args:
        config: With devices and their capacity.
        state_dir: That of the mount, by which its server is told from others.
        board: Told of what the server has.
        on_start: Called when a server serves, with nothing resident.
        on_attached: Called with how often programs attached, and the sum of the sizes.
        environment: Variables that the server and its child processes get.
    """

    def __init__(
        self,
        config: HotConfig,
        state_dir: Path,
        board: HotBoard,
        on_start: Callable[[], None],
        on_attached: Callable[[int, int], None],
        environment: Mapping[str, str],
    ) -> None:
        self._config = config
        self._state_dir = state_dir
        self._board = board
        self._on_start = on_start
        self._on_attached = on_attached
        self._environment = dict(environment)
        self.link: HotLink | None = None
        self.start_count = 0
        self.pid: int | None = None

    async def run(self) -> None:
        """Have a server running until cancelled."""
        backoff, told = Backoff(RESTART_S_MIN, RESTART_S_MAX), ""
        while True:
            began_s = trio.current_time()
            note = await self._run_one()
            if trio.current_time() - began_s > RESTART_S_MAX:
                backoff.reset()
            pause_s = backoff.fail()
            level = logging.INFO if note == told else logging.WARNING
            log.log(level, "the hot tier is away, next try in %.0f s: %s", pause_s, note)
            told = note
            await trio.sleep(pause_s)

    async def call(self, op: str, *fds: int, **fields: object) -> dict[str, object]:
        """Call the server.

        Raises:
            HotGoneError: None runs, or it ended meanwhile.
            MemfsError: It answered with an error.
        """
        if self.link is None:
            raise HotGoneError(f"the hot tier does not serve: {self._board.note}")
        return await self.link.call(op, fds, **fields)

    async def _run_one(self) -> str:
        """Start a server and serve it to its end; returns why it ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-m", "memfs_daemon.hot", os.fspath(self._state_dir)],
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    # Its log goes where the daemon's own standard error goes: daemon.log.
                    stderr=None,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            return self._end(f"the hot server cannot be started: {error}")
        connection = trio.socket.from_stdlib_socket(ours)
        self.pid = process.pid
        try:
            with trio.move_on_after(START_S_MAX) as start:
                self._board.begin(await self._configure(connection))
                self.start_count += 1
            if start.cancelled_caught:
                return self._end(f"the hot server was not ready within {START_S_MAX:.0f} s")
            self.link = HotLink(connection, self._take_event)
            self._on_start()
            await self.link.run()
        except (MemfsError, OSError) as error:
            return self._end(str(error))
        finally:
            self.link = None
            connection.close()
            with trio.CancelScope(shield=True):
                await _end_process(process)
            self.pid = None
        code = process.returncode
        how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"status {code}"
        return self._end(f"the hot server has ended with {how}")

    async def _configure(self, connection: trio.socket.SocketType) -> HotServerInfo:
        config, secret = self._config, secrets.token_bytes(SECRET_BYTES)
        address = f"memfs-hot-{secrets.token_hex(8)}"
        await send_async(
            connection,
            {
                "devices": list(config.devices),
                "size_bytes": config.size_bytes,
                "reserve_bytes": config.reserve_bytes,
                "high_watermark": config.high_watermark,
                "low_watermark": config.low_watermark,
                "admission_share": config.admission_share,
                "snapshot_share": config.snapshot_share,
                "secret": secret.hex(),
                "address": address,
            },
        )
        answer = (await receive_async(connection)).message
        raise_error(answer)
        described = answer.get("devices")
        if not isinstance(described, list) or not described:
            raise ProtocolError("the hot server describes no devices")
        devices = tuple(_device_in(each) for each in described)
        return HotServerInfo(address, os.geteuid(), TokenSigner(secret), devices)

    def _take_event(self, message: dict[str, object]) -> None:
        if message.get("event") == "attached":
            self._on_attached(number_in(message, "count"), number_in(message, "bytes"))
            return
        ino = InodeNo(number_in(message, "ino"))
        generation = Generation(number_in(message, "generation"))
        # The server would not ask for what it has: news of an eviction may come late.
        self._board.note_gone(ino, generation)
        if message.get("event") == "wanted":
            device = message.get("device")
            self._board.want(Want(ino, generation, None if device is None else str(device)))

    def _end(self, note: str) -> str:
        self._board.end(note)
        return note


def _device_in(described: object) -> HotDevice:
    if not isinstance(described, dict):
        raise ProtocolError("the hot server describes no device")
    return HotDevice(
        uuid=str(described.get("uuid")),
        name=str(described.get("name")),
        kind=str(described.get("kind")),
        capacity_bytes=number_in(described, "capacity_bytes"),
    )


async def _end_process(process: trio.Process) -> None:
    """Wait for a server whose connection is closed, and kill it where it does not end."""
    with trio.move_on_after(END_S_MAX):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
