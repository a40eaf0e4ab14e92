"""The contract of a driver: how the daemon mounts, serves and unmounts, whatever the protocol.

Invariant: a driver serves one mount once; a new mount takes a new driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence


class Driver(Protocol):
    """One mount of an `Operations`."""

    @property
    def name(self) -> str:
        """As in `[mount] driver`: `kernel` or `pyfuse3`."""
        ...

    @property
    def limits(self) -> Sequence[str]:
        """What this driver cannot do here, one sentence each, for `memfs status`."""
        ...

    def mount(self) -> None:
        """Mount; until `serve` runs, a program that touches the mountpoint waits.

        Raises:
            UsageError: What is in the way, and the remedy.
            OSError: As of mount(2).
        """
        ...

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the mount is gone; started once the kernel's first request is answered.

        Checkpoint: always. Cancel: the mount goes away with requests unanswered; unmount first.
        """
        ...

    def unmount(self, *, lazy: bool = False) -> None:
        """Take the mount away, which ends `serve`; from a thread, for the kernel asks `serve`.

        Args:
            lazy: Do so even while it is in use; `serve` then ends with the last open file.

        Raises:
            OSError: EBUSY while in use, EINVAL if there is no mount.
        """
        ...
