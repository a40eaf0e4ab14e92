"""The kernel's registry of backing files of one mount.

Invariant: without passthrough nothing is registered, and `reason` says why in one sentence.
"""

from __future__ import annotations

import errno
from fcntl import ioctl

from memfs_daemon.kernel.protocol import (
    BACKING_ID,
    BACKING_MAP,
    DEV_IOC_BACKING_CLOSE,
    DEV_IOC_BACKING_OPEN,
)


class BackingRegistry:
    """Implements `memfs.filesystem.operations.Backing`.

    It is made before the mount, for the file system to hold; the driver enables it when the kernel
    has agreed to passthrough.

    Attributes:
        available: True if `register` can work.
        reason: Why it cannot; empty if it can.
    """

    def __init__(self) -> None:
        self.available = False
        self.reason = "the kernel has not answered yet"
        self._fd = -1

    def enable(self, fd: int) -> None:
        """Use the descriptor of a mount that agreed to passthrough."""
        self._fd = fd
        self.available = True
        self.reason = ""

    def refuse(self, reason: str) -> None:
        """Remember why there is no passthrough."""
        self.available = False
        self.reason = reason

    def register(self, fd: int) -> int:
        """Return a backing id (> 0) for an open regular file; the descriptor may be closed then.

        Raises:
            OSError: ENOTSUP without passthrough; ELOOP where the file's file system is stacked too
                deep; else as the kernel says.

        Source: FUSE_DEV_IOC_BACKING_OPEN, Documentation/filesystems/fuse/fuse-passthrough.rst.
        """
        if not self.available:
            raise OSError(errno.ENOTSUP, f"no passthrough: {self.reason}")
        # A bytearray, because for an immutable argument ioctl() returns the argument, not the id.
        argument = bytearray(BACKING_MAP.pack(fd, 0, 0))
        backing: int = ioctl(self._fd, DEV_IOC_BACKING_OPEN, argument, True)
        return backing

    def release(self, backing: int) -> None:
        """Give a backing id back; opens that use it go on.

        Raises:
            OSError: ENOENT: not registered.
        """
        ioctl(self._fd, DEV_IOC_BACKING_CLOSE, bytearray(BACKING_ID.pack(backing)), True)
