"""Bounded dictionaries: what is remembered of many things, of the latest ones only.

Invariants:
- A `BoundedDict` never has more than `count_max` entries.
- The values of a `SizedDict` never take more than `size_max` together, but for the `count_min`
  newest ones.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

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


class SizedDict(Generic[K, V]):
    """Values of different sizes, of which those least recently used leave when they are too many.

    Args:
        size_max: What all values may take together.
        size_of: Returns what a value takes; always the same of the same value.
        count_min: So many of the newest stay, whatever they take.
    """

    def __init__(self, size_max: int, size_of: Callable[[V], int], count_min: int = 0) -> None:
        self._size_max = size_max
        self._size_of = size_of
        self._count_min = count_min
        self._values: OrderedDict[K, V] = OrderedDict()
        self.used_size = 0
        """What all values take now."""

    def __contains__(self, key: K) -> bool:
        """True if there is a value of the key."""
        return key in self._values

    def touch(self, key: K) -> V | None:
        """Return the value of a key, which becomes the newest one; None if there is no such key."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value as the newest one; not if it is larger than all may be together."""
        known = self._values.pop(key, None)
        if known is not None:
            self.used_size -= self._size_of(known)
        size = self._size_of(value)
        if size > self._size_max and not self._count_min:
            return
        self._values[key] = value
        self.used_size += size
        while self.used_size > self._size_max and len(self._values) > self._count_min:
            _, oldest = self._values.popitem(last=False)
            self.used_size -= self._size_of(oldest)
