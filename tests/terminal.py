"""A terminal for tests: a command runs on it, and what it draws is read as a person would.

Invariant: a command that was started here is gone at the end, and the terminal with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Self

import pyte

from memfs.linux.readiness import await_ready
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_READ_BYTES = 65536
_POLL_S = 0.05

_LEAVES = b"\x1b[?1049l"
_ENTERS = b"\x1b[?1049h"
_HIDES = b"\x1b[?25l"
_SHOWS = b"\x1b[?25h"


class Terminal:
    """A command on a terminal of its own.

    Args:
        arguments: Those of `memfs`.
        columns: Width of the terminal.
        lines: Its height.
    """

    def __init__(self, *arguments: str | Path, columns: int = 80, lines: int = 24) -> None:
        self._ours, self._theirs = pty.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.output = b""
        """All that it has written."""
        self.resize(columns, lines)
        self.modes_before = self.modes()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "memfs_tools", *map(str, arguments)],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=os.environ | {"TERM": "xterm-256color"},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        """The command has been started."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)
        os.close(self._ours)
        os.close(self._theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size; the command is told by its own signal."""
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen.resize(lines, columns)

    def modes(self) -> list[object]:
        """How the terminal treats keys and lines."""
        return [*termios.tcgetattr(self._theirs)]

    def press(self, keys: str | bytes) -> None:
        """Type something."""
        os.write(self._ours, keys.encode() if isinstance(keys, str) else keys)

    @property
    def lines(self) -> list[str]:
        """What is to be seen, line by line."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """What is to be seen."""
        return "\n".join(self.lines)

    def wait(self, condition: Callable[[str], object], what: str) -> str:
        """Return what is to be seen once a condition holds for it."""
        deadline_s = time.monotonic() + WAIT_S
        while not condition(self.text):
            assert time.monotonic() < deadline_s, f"not seen: {what}\n{self.text}"
            self._read()
        return self.text

    def see(self, *texts: str) -> str:
        """Return what is to be seen once all of these are."""
        return self.wait(lambda seen: all(text in seen for text in texts), ", ".join(texts))

    def end(self) -> int:
        """Wait for the command to end, and return its exit status."""
        deadline_s = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"still running:\n{self.text}"
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before the command."""
        return (
            self.modes() == self.modes_before
            and self.output.rfind(_LEAVES) >= self.output.rfind(_ENTERS)
            and self.output.rfind(_SHOWS) >= self.output.rfind(_HIDES)
        )

    def _read(self) -> bool:
        if not await_ready([self._ours], _POLL_S):
            return False
        data = os.read(self._ours, _READ_BYTES)
        self.output += data
        self._stream.feed(data)
        return True
