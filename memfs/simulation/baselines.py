"""Baselines: the plain eviction queues that ours is compared with.

Invariant: all follow the contract `memfs.policy.queues.EvictionQueue`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from memfs.policy.queues import always_evictable

if TYPE_CHECKING:
    from collections.abc import Callable


class Fifo:
    """First in, first out."""

    def __init__(self, capacity_bytes: int) -> None:
        self._sizes: OrderedDict[int, int] = OrderedDict()
        """Bytes by key, first to leave first."""
        self.used_bytes = 0
        self.capacity_bytes = capacity_bytes

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def access(self, key: int, size_bytes: int) -> bool:
        return key in self._sizes

    def admits(self, key: int, size_bytes: int) -> bool:
        return size_bytes <= self.capacity_bytes

    def insert(self, key: int, size_bytes: int) -> None:
        self.used_bytes += size_bytes - self._sizes.get(key, 0)
        self._sizes[key] = size_bytes

    def remove(self, key: int) -> None:
        self.used_bytes -= self._sizes.pop(key, 0)

    def resize(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes

    def evict(
        self, needed_bytes: int, evictable: Callable[[int], bool] = always_evictable
    ) -> list[int]:
        leaving: list[int] = []
        freed_bytes = 0
        if needed_bytes > 0:
            for key, size_bytes in self._sizes.items():
                if evictable(key):
                    leaving.append(key)
                    freed_bytes += size_bytes
                    if freed_bytes >= needed_bytes:
                        break
        for key in leaving:
            self.remove(key)
        return leaving


class Lru(Fifo):
    """The least recently used leaves first."""

    def access(self, key: int, size_bytes: int) -> bool:
        if key not in self._sizes:
            return False
        self._sizes.move_to_end(key)
        return True


class NoEvict(Fifo):
    """What fits comes in and stays: the best that can be done for epochs, and poor elsewhere.

    Source: Mohan et al., Analyzing and Mitigating Data Stalls in DNN Training, VLDB 2021 (MinIO).
    """

    def admits(self, key: int, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self.capacity_bytes
