"""The heap keeper: gives the system back memory that the daemon has freed.

Invariant: it changes nothing but where free memory lies, and costs nothing while the daemon rests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.linux.heap import trim_heap
from memfs_daemon.limits import anonymous_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 5.0
"""Between two looks: one reads a file of /proc, 30 us."""

GROWTH_BYTES = 16 << 20
"""Growth since the last time after which the heap is trimmed beside running requests too: some
milliseconds of a thread, in which others that allocate may wait."""

IDLE_GROWTH_BYTES = 1 << 20
"""The same while no program makes requests."""


class HeapKeeper:
    """Trims the heap when it has grown, sooner when nobody is there to notice.

    Args:
        request_count: Returns how many requests programs have made so far.
        measure: Returns the anonymous memory of the process, bytes.
        trim: Gives free memory back; runs in a thread.
    """

    def __init__(
        self,
        request_count: Callable[[], int],
        measure: Callable[[], int] = anonymous_bytes,
        trim: Callable[[], object] = trim_heap,
    ) -> None:
        self._request_count = request_count
        self._measure = measure
        self._trim = trim
        self._seen_count = 0
        self._least_bytes = 0
        """Anonymous memory when nothing else could be given back."""

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            await self.give_back()

    async def give_back(self) -> None:
        """Look once. Checkpoint: if there is something to give back."""
        count, self._seen_count = self._seen_count, self._request_count()
        allowed_bytes = IDLE_GROWTH_BYTES if count == self._seen_count else GROWTH_BYTES
        now_bytes = self._measure()
        self._least_bytes = min(self._least_bytes, now_bytes)
        if now_bytes - self._least_bytes < allowed_bytes:
            return
        await trio.to_thread.run_sync(self._trim)
        self._least_bytes = self._measure()
