"""Times of files: the clock that memfs stamps with, and what of a time can be stored.

Invariant: no time leaves `storable_ns` that the metadata engine cannot hold; and a time that a
`Clock` gives is later than all times of files that it was told of.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TIME_NS_MIN = -(1 << 31) * 1_000_000_000
"""1901-12-13T20:45:52Z: the earliest time that ext4, XFS and tmpfs hold alike."""
TIME_NS_MAX = (1 << 63) - 1
"""2262-04-11T23:47:16.854775807Z: the latest that fits a signed column of nanoseconds."""

_CLOCK_REALTIME_COARSE = 5
"""linux/time.h; the time module has no name for it."""


def storable_ns(time_ns: int) -> int:
    """Return the nearest time that can be stored, nanoseconds since the epoch.

    Programs give 64-bit seconds, and file systems hold times up to the year 2446 and beyond; the
    kernel cuts times likewise for each file system (`timestamp_truncate`, fs/inode.c).
    """
    return min(max(time_ns, TIME_NS_MIN), TIME_NS_MAX)


def coarse_ns() -> int:
    """Return the time by which file systems stamp, nanoseconds since the epoch."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class Clock:
    """The wall clock for the times of files.

    It is the coarse clock, by which file systems stamp, so that a time of it never lies behind one
    that the backing file system takes later (up to 4 ms otherwise). Since Linux 6.13 they stamp by
    the fine clock where somebody has looked at a file's times (multigrain timestamps,
    Documentation/filesystems/multigrain-ts.rst): such a time lies ahead of the coarse clock. What
    was shown to a program is therefore the least that the next time has to exceed.

    Args:
        read_ns: Reads the coarse clock.
    """

    def __init__(self, read_ns: Callable[[], int] = coarse_ns) -> None:
        self._read_ns = read_ns
        self._shown_ns = TIME_NS_MIN

    def now_ns(self) -> int:
        """Return the present time, nanoseconds since the epoch."""
        now_ns = self._read_ns()
        return now_ns if now_ns > self._shown_ns else self._shown_ns + 1

    def note_shown(self, time_ns: int) -> None:
        """A program is shown this time of a change: what changes from here on changed later.

        A time of the future is passed over: someone has set the clock back, and it stays so.
        """
        if time_ns > self._shown_ns and time_ns <= time.time_ns():
            self._shown_ns = time_ns
