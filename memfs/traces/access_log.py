"""The access log: rows of a trace in memory, between the requests and the thread that writes them.

Invariant: bounded, and a note is neither I/O nor a checkpoint; rows that do not fit are counted.
"""

from __future__ import annotations

import enum
import time
from array import array
from typing import TYPE_CHECKING

import trio

from memfs.signals import Signal

if TYPE_CHECKING:
    from memfs.types import InodeNo, Tier

FLUSH_ROW_COUNT = 16_384
"""So many rows are written without waiting for the interval; 0.4 MB of memory."""

ROW_COUNT_MAX = 1 << 20
"""26 bytes a row. At 100,000 opens a second, which is more
than the daemon serves, the thread may take 10 s."""


class Operation(enum.IntEnum):
    """What happened to a file. The numbers are an index into the names in the trace's file."""

    OPEN = 0
    """Opened with its content kept; `bytes` is the file's size."""
    READ = 1
    """Read from a packed or remote form by the daemon; `bytes` were read. Reads of raw files stay
    within the kernel and are not seen."""
    WRITE = 2
    """Its last writer is gone; `bytes` is the size it has now."""
    CREATE = 3
    """Made; `bytes` is 0."""
    UNLINK = 4
    """Its last name is gone; `bytes` is the size it had."""
    HYDRATE = 5
    """Made raw again; `bytes` is its size and `tier` where they came from."""

    @property
    def label(self) -> str:
        """The word in the trace's file: `open`, `read`, ..."""
        return self.name.lower()


class Rows:
    """Columns of equal length."""

    def __init__(self) -> None:
        self.times_ns = array("q")
        """Wall clock."""
        self.inodes = array("Q")
        self.operations = array("b")
        self.sizes_bytes = array("q")
        self.tiers = array("b")
        """Where the bytes were, by `Tier`."""

    def __len__(self) -> int:
        return len(self.times_ns)


class AccessLog:
    """Takes notes while a trace is recorded.

    Callers ask first: `if log.active: log.note(...)`, so that the log costs one test when it is
    off.

    Args:
        row_count_max: Rows kept while the thread is writing.
    """

    def __init__(self, row_count_max: int = ROW_COUNT_MAX) -> None:
        self._row_count_max = row_count_max
        self.active = False
        """Notes are wanted."""
        self.dropped_count = 0
        """Rows that did not fit, since `clear`."""
        self._rows = Rows()
        self._ready = Signal()
        self._seen = 0

    def note(self, operation: Operation, ino: InodeNo, size_bytes: int, tier: Tier) -> None:
        """Add a row with the present time."""
        rows = self._rows
        count = len(rows.times_ns)
        if count >= self._row_count_max:
            self.dropped_count += 1
            return
        rows.times_ns.append(time.time_ns())
        rows.inodes.append(ino)
        rows.operations.append(operation)
        rows.sizes_bytes.append(size_bytes)
        rows.tiers.append(tier)
        if count == FLUSH_ROW_COUNT:
            self._ready.set()

    def take(self) -> Rows:
        """Return and forget the rows."""
        taken, self._rows = self._rows, Rows()
        return taken

    def clear(self) -> None:
        """Forget rows and counts of an earlier trace."""
        self._rows = Rows()
        self.dropped_count = 0

    async def wait(self, timeout_s: float) -> None:
        """Wait until there is much to write, but not longer than that. Checkpoint: always."""
        with trio.move_on_after(timeout_s):
            self._seen = await self._ready.wait(self._seen)
