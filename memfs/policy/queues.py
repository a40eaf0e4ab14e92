"""Queues: what decides which keys a tier keeps; the contract that the mover and simulators drive.

Invariant: the same calls give the same answers; a queue moves no bytes and reads no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


def always_evictable(_key: int) -> bool:
    """Return True: every key may leave."""
    return True


class EvictionQueue(Protocol):
    """The keys of one tier, in the order in which they leave it.

    Keys are numbers: inode numbers in the daemon, numbered keys of a trace in a simulator. A
    simulator drives it so, for each access of a trace:

        if not queue.access(key, size_bytes) and queue.admits(key, size_bytes):
            queue.evict(queue.used_bytes + size_bytes - queue.capacity_bytes)
            queue.insert(key, size_bytes)
    """

    @property
    def used_bytes(self) -> int:
        """The sizes of all keys in the queue, together."""
        ...

    @property
    def capacity_bytes(self) -> int:
        """What the tier holds. `insert` may go beyond it; `evict` brings the use back."""
        ...

    def __contains__(self, key: object) -> bool:
        """Return True if the key is in the queue."""
        ...

    def access(self, key: int, size_bytes: int) -> bool:
        """Count one use of a key.

        Returns:
            True if it is in the queue: a hit, and its frequency is counted. False for a miss: what
            is remembered of keys that left is looked at, and `admits` may be asked next.
        """
        ...

    def admits(self, key: int, size_bytes: int) -> bool:
        """Return True if a key that was just missed is worth a place; changes nothing.

        False while a loop larger than the tier is read (what is held stays), for a key larger than
        the tier, and for one that would push out others without having proved itself.
        """
        ...

    def insert(self, key: int, size_bytes: int) -> None:
        """Put a key in, whatever `admits` says; if it is in already, its size changes."""
        ...

    def remove(self, key: int) -> None:
        """Take a key out that was deleted or left for another reason; nothing if it is not in."""
        ...

    def resize(self, capacity_bytes: int) -> None:
        """Set the capacity; this evicts nothing."""
        ...

    def evict(
        self, needed_bytes: int, evictable: Callable[[int], bool] = always_evictable
    ) -> list[int]:
        """Take out keys of at least `needed_bytes` together.

        Args:
            needed_bytes: To be freed; 0 or less: nothing leaves.
            evictable: False for keys that stay: pinned ones, open ones. They are passed over.

        Returns:
            The keys that left, first one first; fewer bytes only if all evictable keys have left.
        """
        ...
