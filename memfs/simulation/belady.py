"""Belady's queue: it knows the future, and keeps what is used again soonest.

Invariant: the accesses come in the order of the trace that it was made from.

For keys of one size no queue has more hits (Belady, IBM Systems Journal 5(2), 1966); it may refuse
a key, too. Where sizes differ it is a strong heuristic, not a bound: the best choice is NP-hard
(Chrobak et al., Caching is hard - even in the fault model, 2010), and `bounds` gives what no queue
can exceed.
"""

from __future__ import annotations

import heapq
from array import array
from typing import TYPE_CHECKING

from memfs.policy.queues import always_evictable
from memfs.traces.trace import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.traces.trace import Trace

_HEAP_SLACK = 4
"""The heap is made anew when so many of its entries for one that counts may be stale."""


class Future:
    """When each key is accessed next; 4 bytes a row."""

    def __init__(self, trace: Trace) -> None:
        count = len(trace)
        self.nexts = array("i", [count]) * count
        """By row: the row of the key's next access after it; beyond the end if there is no next
        access."""
        self.firsts = array("i", [count]) * len(trace.names)
        """By key: the row of its first access."""
        events, keys, coming = trace.events, trace.keys, self.firsts
        for row in range(count - 1, -1, -1):
            key = keys[row]
            self.nexts[row] = coming[key]
            if events[row] == Event.ACCESS:
                coming[key] = row


class Belady:
    """The queue; `access` must be called for each access of the trace, in order.

    Args:
        capacity_bytes: Bytes of the tier.
        future: That of the trace that is replayed.
    """

    def __init__(self, capacity_bytes: int, future: Future) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._nexts = future.nexts
        self._coming = array("i", future.firsts)
        """By key: the row of its next access."""
        self._sizes: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        """(minus the next row, key) of all keys held, and of some that are not, or were since
        accessed: an entry counts if it says what `_coming` says."""

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def access(self, key: int, size_bytes: int) -> bool:
        self._coming[key] = self._nexts[self._coming[key]]
        if key not in self._sizes:
            return False
        self._push(key)
        return True

    def admits(self, key: int, size_bytes: int) -> bool:
        needed_bytes = self.used_bytes + size_bytes - self.capacity_bytes
        if size_bytes > self.capacity_bytes:
            return False
        later: list[int] = []
        while needed_bytes > 0 and (other := self._pop_latest()) is not None:
            later.append(other)
            if self._coming[other] <= self._coming[key]:
                break
            needed_bytes -= self._sizes[other]
        for other in later:
            self._push(other)
        return needed_bytes <= 0

    def insert(self, key: int, size_bytes: int) -> None:
        self.used_bytes += size_bytes - self._sizes.get(key, 0)
        self._sizes[key] = size_bytes
        self._push(key)

    def remove(self, key: int) -> None:
        self.used_bytes -= self._sizes.pop(key, 0)

    def resize(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes

    def evict(
        self, needed_bytes: int, evictable: Callable[[int], bool] = always_evictable
    ) -> list[int]:
        leaving: list[int] = []
        staying: list[int] = []
        while needed_bytes > 0 and (key := self._pop_latest()) is not None:
            if evictable(key):
                leaving.append(key)
                needed_bytes -= self._sizes[key]
                self.remove(key)
            else:
                staying.append(key)
        for key in staying:
            self._push(key)
        return leaving

    def _push(self, key: int) -> None:
        heapq.heappush(self._heap, (-self._coming[key], key))
        if len(self._heap) > _HEAP_SLACK * (len(self._sizes) + _HEAP_SLACK):
            self._heap = [(-self._coming[held], held) for held in self._sizes]
            heapq.heapify(self._heap)

    def _pop_latest(self) -> int | None:
        """Take the key that is used again last off the heap; None if the heap is empty."""
        heap = self._heap
        while heap:
            entry = heapq.heappop(heap)
            while heap and heap[0] == entry:
                heapq.heappop(heap)
            if entry[1] in self._sizes and self._coming[entry[1]] == -entry[0]:
                return entry[1]
        return None
