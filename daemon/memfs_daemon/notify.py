"""What the daemon tells those who started it: systemd, and a waiting `memfs mount`.

Invariant: READY is said once, after the mount serves; without listeners all of it does nothing.

Source: sd_notify(3), and its environment NOTIFY_SOCKET and WATCHDOG_USEC.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import sys
import termios
from typing import TYPE_CHECKING

import trio

from memfs.escaping import escape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

EXTEND_S = 60
"""A start that tells its progress every few seconds is given so long from each time on."""

_MESSAGE_CHARACTERS_MAX = 600
"""JSON writes a character in at most 6 bytes (RFC 8259), so a line stays below PIPE_BUF, 4096."""


_UNREAD_BYTES_MAX = 8 << 10
"""Progress that nobody has read yet; a pipe has room for 64 KiB, and the last line must fit in."""


def _unread_bytes(fd: int) -> int:
    """Return how much of what was written to a pipe is still in it."""
    answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


class ServiceManager:
    """The service manager that started this process, if one did."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take the address and the watchdog's period from the environment."""
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        pid = environment.get("WATCHDOG_PID")
        is_ours = pid is None or pid == str(os.getpid())
        period_us = environment.get("WATCHDOG_USEC", "") if is_ours else ""
        self._watchdog_s = int(period_us) / 1e6 if period_us.isdecimal() else 0.0

    def notify(self, *assignments: str) -> None:
        """Send assignments: `READY=1`, `STOPPING=1`, `STATUS=...`."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.settimeout(1.0)
                lines = [escape_text(line) for line in assignments]
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                log.info("service manager: %s not delivered: %s", assignments[0], error)

    def extend_start(self, progress: str) -> None:
        """Say what a long start is at, and ask for more time; called every few seconds."""
        self.notify(f"STATUS={progress}", f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1_000_000}")

    async def beat(self) -> None:
        """Send heartbeats at half of the watchdog's period, as sd_watchdog_enabled(3) advises.

        They come from the event loop on purpose: a loop that hangs is a daemon to be restarted.
        """
        if not self._watchdog_s:
            return
        while True:
            self.notify("WATCHDOG=1")
            await trio.sleep(self._watchdog_s / 2)


class Starter:
    """The waiting end of `memfs mount`: a pipe that takes lines of JSON.

    Those of progress come before the one that counts, ready or why not, which is the last.
    """

    def __init__(self, fd: int | None) -> None:
        """Take the write end of the pipe; None: nobody waits."""
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self, progress: str) -> None:
        """Say what a long start is at."""
        # One who was stopped at the terminal reads nothing: the start must not wait for him.
        if self._fd is not None and _unread_bytes(self._fd) < _UNREAD_BYTES_MAX:
            self._write(self._fd, {"progress": progress[:_MESSAGE_CHARACTERS_MAX]})

    def ready(self) -> None:
        """Say that the mount serves."""
        self._send({"ready": True})

    def failed(self, message: str, exit_code: int) -> None:
        """Say why the daemon ends instead of serving; nothing happens after `ready`."""
        short = message[:_MESSAGE_CHARACTERS_MAX]
        self._send({"ready": False, "message": short, "exit_code": exit_code})

    def _send(self, content: dict[str, object]) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            self._write(fd, content)
        finally:
            os.close(fd)

    def _write(self, fd: int, content: dict[str, object]) -> None:
        try:
            # Below PIPE_BUF, and there is room: it is never torn, and never blocks (pipe(7)).
            os.write(fd, json.dumps(content).encode("ascii") + b"\n")
        except BrokenPipeError:
            log.info("nobody waits for the start any more")
