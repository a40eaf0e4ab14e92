"""Bounded dictionaries: what is remembered of many things, of the latest ones only.

Invariant: a `BoundedDict` never has more than `count_max` entries.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(OrderedDict[K, V]):
    """A dictionary whose oldest entry leaves when there are too many.

    An entry that is set is the newest one, whether its key was there or not. Reading changes no
    order; `touch` does, so that those least recently used leave.

    Args:
        count_max: Entries that are kept, > 0.
    """

    def __init__(self, count_max: int) -> None:
        super().__init__()
        self.count_max = count_max

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.count_max:
            self.popitem(last=False)

    def touch(self, key: K) -> V | None:
        """Return the value of a key, which becomes the newest one; None if there is no such key."""
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value
