"""Ghosts: keys that are not in a queue, remembered with how often they were used.

Invariant: bounded in count and in bytes; the one noted longest ago is forgotten first.
"""

from __future__ import annotations

from memfs.fifo import Fifo

USES_BITS = 2
USES_MASK = (1 << USES_BITS) - 1
USES_MAX = USES_MASK
"""Counting stops here: two bits, as of the keys in a queue."""


class Ghosts:
    """Remembered keys, first in, first out.

    Args:
        capacity_bytes: Sum of the sizes that is remembered.
        count_max: Keys that are remembered.
    """

    def __init__(self, capacity_bytes: int, count_max: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._count_max = count_max
        self._ghosts: Fifo[int, int] = Fifo()
        """Size and uses in one number: 1 to `USES_MAX` accesses since it became a ghost, and one
        for the time before."""
        self._used_bytes = 0

    def __len__(self) -> int:
        return len(self._ghosts)

    def uses(self, key: int) -> int:
        """Return how often a key was used; 0 if it is not remembered."""
        return self._ghosts.get(key, 0) & USES_MASK

    def note(self, key: int, size_bytes: int, uses: int = 1) -> None:
        """Remember a key as the newest one, with so many uses."""
        self.forget(key)
        self._ghosts[key] = size_bytes << USES_BITS | min(uses, USES_MAX)
        self._used_bytes += size_bytes
        while self._used_bytes > self.capacity_bytes or len(self._ghosts) > self._count_max:
            _, oldest = self._ghosts.take_oldest()
            self._used_bytes -= oldest >> USES_BITS

    def forget(self, key: int) -> int:
        """Forget a key; returns its uses, 0 if it was not remembered."""
        ghost = self._ghosts.pop(key, 0)
        self._used_bytes -= ghost >> USES_BITS
        return ghost & USES_MASK
