"""Ghosts: keys that are not in a queue, remembered with how often they were used.

Invariant: bounded in count and in bytes; the one noted longest ago is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

USES_MAX = 3
"""Counting stops here: two bits, as of the keys in a queue."""


class Ghost(NamedTuple):
    """What is remembered of a key."""

    size_bytes: int
    uses: int
    """1 to `USES_MAX`: accesses since it became a ghost, and one for the time before."""


class Ghosts:
    """Remembered keys, first in, first out.

    Args:
        capacity_bytes: Sum of the sizes that is remembered.
        count_max: Keys that are remembered.
    """

    def __init__(self, capacity_bytes: int, count_max: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._count_max = count_max
        self._ghosts: OrderedDict[int, Ghost] = OrderedDict()
        self._used_bytes = 0

    def __len__(self) -> int:
        return len(self._ghosts)

    def uses(self, key: int) -> int:
        """Return how often a key was used; 0 if it is not remembered."""
        ghost = self._ghosts.get(key)
        return ghost.uses if ghost is not None else 0

    def note(self, key: int, size_bytes: int, uses: int = 1) -> None:
        """Remember a key as the newest one, with so many uses."""
        self.forget(key)
        self._ghosts[key] = Ghost(size_bytes, min(uses, USES_MAX))
        self._used_bytes += size_bytes
        while self._used_bytes > self.capacity_bytes or len(self._ghosts) > self._count_max:
            _, oldest = self._ghosts.popitem(last=False)
            self._used_bytes -= oldest.size_bytes

    def forget(self, key: int) -> int:
        """Forget a key; returns its uses, 0 if it was not remembered."""
        ghost = self._ghosts.pop(key, None)
        if ghost is None:
            return 0
        self._used_bytes -= ghost.size_bytes
        return ghost.uses
