"""The reserve: disk space that is given up when the disk is full, so that removing still works.

Invariant: while the reserve is held, its blocks are allocated.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from memfs.linux.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path


class Reserve:
    """A file of allocated blocks and no content."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self.held = False

    def acquire(self) -> bool:
        """Allocate the reserve if the disk has twice the room; return whether it is held."""
        if not self.held:
            try:
                disk = os.statvfs(self._path.parent)
                if not self._path.exists() and (
                    disk.f_bavail * disk.f_frsize < 2 * self._size_bytes
                ):
                    return False
                fd = open_regular(self._path, os.O_RDWR | os.O_CREAT)
                try:
                    os.posix_fallocate(fd, 0, self._size_bytes)
                finally:
                    os.close(fd)
                self.held = True
            except OSError:
                self.release()
        return self.held

    def release(self) -> None:
        """Give the blocks back to the disk."""
        self.held = False
        with contextlib.suppress(OSError):
            self._path.unlink()
