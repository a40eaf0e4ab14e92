"""Heat: which of many are used most, in bounded room.

Invariant: a sketch has so many entries at most, and no entry tells less than the true number of
uses, each of which counts half after `HALF_LIFE_S`. What it tells beyond that is known by entry.

Source: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data
streams" (2005), space-saving; in batches, as its summaries merge.
"""

from __future__ import annotations

import heapq
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from memfs.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

ENTRY_COUNT = 1000
HALF_LIFE_S = 86_400.0
"""A day: what was hot last week is not today. Guess."""

_HEAD = struct.Struct("<dd")
_ENTRY = struct.Struct("<qdd")


K = TypeVar("K", bound=int)


class Heat(NamedTuple):
    """How much one is used."""

    number: int
    """The inode that is used."""
    uses: float
    """Decayed; the true number or more."""
    error: float
    """The most that it may be too much."""


class HeatSketch:
    """Counts uses by number.

    Args:
        entry_count: Room.
    """

    def __init__(self, entry_count: int = ENTRY_COUNT) -> None:
        self._entry_count = entry_count
        self._entries: dict[int, tuple[float, float]] = {}
        self._floor = 0.0
        """One that has no entry was used so often at most."""
        self._time_s = 0.0

    def add(self, uses: Mapping[K, int], now_s: float) -> None:
        """Count uses of a period that ends now."""
        self._decay(now_s)
        entries, floor = self._entries, self._floor
        for number, count in uses.items():
            known, error = entries.get(number, (floor, floor))
            entries[number] = known + count, error
        if len(entries) > self._entry_count:
            kept = heapq.nlargest(self._entry_count, entries.items(), key=lambda each: each[1][0])
            left_out = entries.keys() - {number for number, _ in kept}
            self._floor = max(floor, *(entries[number][0] for number in left_out))
            self._entries = dict(kept)

    def forget(self, number: int) -> None:
        """Leave one out: it is gone."""
        self._entries.pop(number, None)

    def hottest(self, now_s: float, limit: int) -> list[Heat]:
        """Return those that are used most, the most first."""
        self._decay(now_s)
        found = heapq.nlargest(limit, self._entries.items(), key=lambda each: each[1][0])
        return [Heat(number, uses, error) for number, (uses, error) in found]

    def encode(self) -> bytes:
        """Return the sketch as bytes, 24 for each entry."""
        entries = (_ENTRY.pack(number, *heat) for number, heat in self._entries.items())
        return _HEAD.pack(self._time_s, self._floor) + b"".join(entries)

    def decode(self, stored: bytes) -> None:
        """Take over what `encode` returned.

        Raises:
            InvalidValueError: It is not that.
        """
        if len(stored) < _HEAD.size or (len(stored) - _HEAD.size) % _ENTRY.size:
            raise InvalidValueError(f"a sketch of uses has {len(stored)} bytes")
        self._time_s, self._floor = _HEAD.unpack_from(stored)
        entries = _ENTRY.iter_unpack(stored[_HEAD.size :])
        self._entries = {number: (uses, error) for number, uses, error in entries}

    def _decay(self, now_s: float) -> None:
        elapsed_s, self._time_s = now_s - self._time_s, max(now_s, self._time_s)
        if elapsed_s <= 0 or not self._entries:
            return
        factor: float = 0.5 ** (elapsed_s / HALF_LIFE_S)
        self._floor *= factor
        self._entries = {
            number: (uses * factor, error * factor)
            for number, (uses, error) in self._entries.items()
        }
