"""How one open file is served, and by whom.

Invariant: nothing here has state; the open files themselves are in `opentable`.
"""

from __future__ import annotations

import enum
from typing import NewType, Protocol

Handle = NewType("Handle", int)
"""An open file's number: only mode and write flag as bits, so that any daemon understands it."""


class OpenMode(enum.IntEnum):
    """Who serves the bytes of one open file."""

    PASSTHROUGH = 0
    """The kernel, from the raw file, by the reply's backing id (`FOPEN_PASSTHROUGH`)."""
    DIRECT = 1
    """The daemon, past the kernel's page cache (`FOPEN_DIRECT_IO`)."""
    CACHED = 2
    """The daemon, through the kernel's page cache, which stays valid (`FOPEN_KEEP_CACHE`)."""


class Backing(Protocol):
    """The kernel's registry of files for passthrough; given by the kernel driver."""

    @property
    def available(self) -> bool:
        """True if the kernel passes files through on this mount; known once it is served."""
        ...

    def register(self, fd: int) -> int:
        """Return a backing id (> 0) for an open file; `OSError` where the kernel refuses."""
        ...

    def release(self, backing: int) -> None:
        """Give a backing id back; opens that use it go on."""
        ...
