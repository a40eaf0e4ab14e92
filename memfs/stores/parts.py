"""The parts of objects that are in memory at a time, of all transfers of a store together.

Invariant: as long as not more transfers than announced are under way, and there is a slot for each,
not more parts than slots are in memory.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from memfs.stores.store import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator


PART_CONCURRENCY = 4
"""Parts in flight of one transfer at the most, 32 MiB of memory: each hides another's round trip.
Guess; on loopback put reached 1.3 and get 0.8 of s3fs's own rate (tests/bench/transfers.py, 256
MiB)."""


class PartSlots:
    """Room for parts; safe for all threads.

    A transfer never waits for a slot, as its deadline runs: each gets at least one, and the more
    the fewer transfers there are, but what others may still come for is left to them.

    Args:
        buffer_bytes: Room for all; at least one part for each transfer is taken in any case.
        transfer_count_max: Transfers at a time.
    """

    def __init__(self, buffer_bytes: int, transfer_count_max: int) -> None:
        self._lock = threading.Lock()
        self._free_count = buffer_bytes // PART_BYTES
        self._to_come_count = transfer_count_max

    @contextlib.contextmanager
    def take(self, wanted_count: int) -> Iterator[int]:
        """Hold slots for a transfer; yields how many parts it may have in memory, at least 1."""
        with self._lock:
            self._to_come_count -= 1
            count = max(1, min(wanted_count, self._free_count - max(0, self._to_come_count)))
            self._free_count -= count
        try:
            yield count
        finally:
            with self._lock:
                self._to_come_count += 1
                self._free_count += count
