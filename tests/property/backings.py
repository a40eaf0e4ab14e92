"""The kernel's part in passthrough: backing files that it keeps open.

Invariant: a file lives as long as it is registered, whatever becomes of its name.
"""

from __future__ import annotations

import os


class KernelBackings:
    """The kernel's registry of backing files: it keeps each open until it is given back."""

    available = True

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._last = 0

    def register(self, fd: int) -> int:
        """Keep a file."""
        self._last += 1
        self._fds[self._last] = os.dup(fd)
        return self._last

    def release(self, backing: int) -> None:
        """Let it go."""
        os.close(self._fds.pop(backing))

    def open(self, backing: int, flags: int) -> int:
        """Open the file once more for a handle, with the handle's own access mode."""
        return os.open(f"/proc/self/fd/{self._fds[backing]}", flags & os.O_ACCMODE)

    def close(self) -> None:
        """The mount is gone."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
