"""The end of a mount that a program has started for itself, once no program holds it any longer.

Invariant: a program that holds the file of holders, and then finds the mount in the tree, keeps it.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from memfs.linux.held_file import let_go, make_holders, try_alone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

log = logging.getLogger(__name__)

LOOK_S_MAX = 5.0
"""Between two looks at who holds it. Guess: a look takes microseconds."""


class Lingering:
    """Unmounts once nobody has held the mount for some time.

    Args:
        state_dir: Has the file of holders.
        linger_s: How long nobody holds it, > 0.
        unmount: Unmounts; OSError if a program has something of the mount open.
    """

    def __init__(
        self, state_dir: Path, linger_s: float, unmount: Callable[[], Awaitable[None]]
    ) -> None:
        self._state_dir = state_dir
        self._linger_s = linger_s
        self._unmount = unmount
        self._free_since_s: float | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look from time to time until it is unmounted; started when programs can hold it.

        Raises:
            OSError: The file of holders cannot be made.
        """
        fd = make_holders(self._state_dir)
        try:
            task_status.started()
            is_over = await self._step(fd)
            while not is_over:
                await trio.sleep(min(LOOK_S_MAX, self._linger_s / 4))
                is_over = await self._step(fd)
        finally:
            os.close(fd)

    async def _step(self, fd: int) -> bool:
        """Return whether it was unmounted."""
        if not try_alone(fd):
            self._free_since_s = None
            return False
        now_s = trio.current_time()
        if self._free_since_s is None:
            self._free_since_s = now_s
        if now_s - self._free_since_s < self._linger_s:
            let_go(fd)
            return False
        # Held alone until the mount is gone: who wants to hold it waits, and then looks again.
        try:
            await self._unmount()
        except OSError as error:
            log.debug("nobody holds the mount, and it stays: %s", error.strerror)
            self._free_since_s = None
            let_go(fd)
            return False
        log.info("unmounted: no program has held the mount for %g s", self._linger_s)
        return True
