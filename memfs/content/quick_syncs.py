"""Quick syncs: which fsyncs the event loop does by itself, and which need a thread.

Invariant: the loop syncs only what is expected to take no longer than its other work does; where
that was wrong, or where it kept others waiting, threads do the next ones.

The way to a thread and back costs two wake-ups of sleeping threads, 0.15-0.2 ms on a virtual
machine; an fdatasync of a page took 0.12-0.3 ms there, so that databases ran at half the disk's
speed (`tests.bench.databases`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from memfs.bounded import BoundedDict
from memfs.config import KIB, MIB
from memfs.linux.memory import cachestat

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.types import InodeNo

QUICK_S = 0.002
"""What a sync may be expected to take: as long as the serving of requests keeps the loop from its
other tasks in any case (`TURN_S` of `kernel/runner.py`)."""

RECENT_S = 0.005
"""So long after a quick sync a file is taken to be as clean as it was: a program dirties some
10 MB in that time at the most."""

LOOKED_BYTES_MAX = 16 * MIB
"""Else the page cache is asked, for files up to this size: 47 us for 16 MiB of single pages."""

DIRTY_BYTES_MAX = 256 * KIB
"""Unwritten bytes that a disk takes within `QUICK_S`. Guess."""

CALM_TIMES = 50
"""Threads do all syncs for so many times the length of one by the loop that others had to wait
for: beside other programs the loop spends 2 % of its time in syncs."""

RECENT_COUNT_MAX = 1024
"""Files whose last sync is remembered."""

_WEIGHT = 8
"""A sync has one part in so many of what the next is expected to take: one of 10 ms, in which the
processor was another's perhaps, does not put an end to syncs by the loop; one of 0.1 s does for
some twenty. Guess."""


class Unsynced(NamedTuple):
    """What is to be synced."""

    ino: InodeNo
    size: int = 0
    """Bytes of its raw file."""
    fd: int = -1
    """Open at its raw file; -1: names alone are synced."""


class QuickSyncs:
    """Learns how long syncs take. One thread calls everything but `time`, which any may call.

    Args:
        clock: Seconds; replaced by tests.
        dirty_bytes: Returns what of an open file is not on the disk yet; None: unknown.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        dirty_bytes: Callable[[int], int | None] | None = None,
    ) -> None:
        self._clock = clock
        self._dirty_bytes = dirty_bytes or _dirty_bytes
        self._expected_s = float("inf")
        self._calm_end_s = float("-inf")
        self._quick_until_s: BoundedDict[InodeNo, float] = BoundedDict(RECENT_COUNT_MAX)

    def are_expected(self, unsynced: Unsynced) -> bool:
        """Return whether a sync would be over soon."""
        if self._expected_s > QUICK_S:
            return False
        now_s = self._clock()
        if now_s < self._calm_end_s:
            return False
        if unsynced.fd < 0 or now_s <= self._quick_until_s.get(unsynced.ino, now_s - 1):
            return True
        if unsynced.size > LOOKED_BYTES_MAX:
            return False
        dirty_bytes = self._dirty_bytes(unsynced.fd)
        return dirty_bytes is not None and dirty_bytes <= DIRTY_BYTES_MAX

    def time(self, work: Callable[[], None]) -> float:
        """Do the work and return how many seconds it took."""
        begin_s = self._clock()
        work()
        return self._clock() - begin_s

    def note(self, unsynced: Unsynced, took_s: float) -> None:
        """A sync has just been done, here or by a thread."""
        if self._expected_s == float("inf"):
            self._expected_s = took_s
        self._expected_s += (took_s - self._expected_s) / _WEIGHT
        if took_s > QUICK_S:
            self._quick_until_s.pop(unsynced.ino, None)
            return
        self._quick_until_s[unsynced.ino] = self._clock() + RECENT_S

    def note_waiting(self, took_s: float) -> None:
        """A request came while the loop was in a sync of such a length."""
        self._calm_end_s = self._clock() + CALM_TIMES * took_s


def _dirty_bytes(fd: int) -> int | None:
    pages = cachestat(fd)
    if pages.dirty_bytes is None or pages.writeback_bytes is None:
        return None
    return pages.dirty_bytes + pages.writeback_bytes
