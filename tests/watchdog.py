"""What ends a test that hangs where no exception reaches it.

pytest-timeout raises in a test that is past its limit. A test that waits for a FUSE request does
not see that: the kernel ends such a wait for a fatal signal only. So a process beside the tests
breaks the mounts of a test that goes on after its limit, which ends the wait. A test that outlives
even that is killed with its test process, after that has printed the stacks of its threads.

Invariant: the watchdog ends with the test process, however that ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.linux.readiness import await_ready
from tests import scratch

if TYPE_CHECKING:
    from collections.abc import Callable

BREAK_AFTER_S = 60.0
"""What a test gets for its end after its limit, until its mounts are broken."""

KILL_AFTER_S = 180.0
"""What a test gets for its end after its mounts are broken."""

PRINT_S = 2.0
"""What the test process gets for printing its stacks."""


class Watchdog:
    """The process, and what it is told."""

    def __init__(
        self,
        stderr_fd: int,
        break_after_s: float = BREAK_AFTER_S,
        kill_after_s: float = KILL_AFTER_S,
    ) -> None:
        """Watch nothing yet.

        Args:
            stderr_fd: Where stacks are printed: not what pytest captures.
            break_after_s: See `BREAK_AFTER_S`.
            kill_after_s: See `KILL_AFTER_S`.
        """
        self._stderr_fd = stderr_fd
        self._after_s = (break_after_s, kill_after_s)
        self._process: subprocess.Popen[bytes] | None = None
        self._limit_s = 0.0
        faulthandler.register(signal.SIGUSR1, file=stderr_fd, all_threads=True)

    def start(self, *roots: Path) -> None:
        """Start the process.

        Args:
            roots: All mounts of the tests are below them.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.watchdog", *map(str, self._after_s), *roots],
            stdin=subprocess.PIPE,
            stdout=self._stderr_fd,
            stderr=self._stderr_fd,
            start_new_session=True,
        )
        self.begin(self._limit_s)

    def begin(self, limit_s: float) -> None:
        """Note that a test begins, which may take `limit_s`; 0: one has ended."""
        self._limit_s = limit_s
        if self._process is not None:
            assert self._process.stdin is not None
            # A watchdog that was killed is no fault of the test.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._process.stdin.fileno(), b"%r\n" % limit_s)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(BREAK_AFTER_S)
            self._process = None


def watch(roots: list[Path], break_after_s: float, kill_after_s: float) -> None:
    """Read limits from the standard input, and do as the module says."""
    tests_pid = os.getppid()
    stages: list[tuple[float, Callable[[], None]]] = [
        (break_after_s, lambda: break_mounts(roots)),
        (kill_after_s, lambda: os.kill(tests_pid, signal.SIGUSR1)),
        (PRINT_S, lambda: os.kill(tests_pid, signal.SIGKILL)),
    ]
    ahead: list[tuple[float, Callable[[], None]]] = []
    wait_s = None
    while True:
        if await_ready([0], wait_s):
            told = os.read(0, 4096)
            if not told:
                return
            limit_s = float(told.split()[-1])
            ahead = list(stages) if limit_s else []
        else:
            ahead.pop(0)[1]()
            limit_s = 0.0
        wait_s = limit_s + ahead[0][0] if ahead else None


def break_mounts(roots: list[Path]) -> None:
    """Fail all requests to the mounts below `roots`; that ends their daemons."""
    for root in roots:
        for entry in scratch.mounts_below(root):
            if entry.type.startswith("fuse"):
                print(f"a test hangs: its mount {entry.mountpoint} is broken", flush=True)
                scratch.abort_connection(entry.minor)


if __name__ == "__main__":
    watch([Path(argument) for argument in sys.argv[3:]], float(sys.argv[1]), float(sys.argv[2]))
