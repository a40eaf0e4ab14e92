"""Rings: how fine and how far back what was measured is kept.

Invariant: a ring has as many rows as it was made for, and a new row takes the place of the oldest
one. All rings together are some 6,600 rows.
"""

from __future__ import annotations

from typing import NamedTuple


class Ring(NamedTuple):
    """One ring."""

    resolution_s: int
    """What one row covers; the next coarser ring has a multiple of it."""
    row_count: int
    """Its rows."""

    @property
    def span_s(self) -> int:
        """What all rows cover."""
        return self.resolution_s * self.row_count


RINGS = (Ring(10, 360), Ring(60, 1440), Ring(900, 2976), Ring(86_400, 1830))
"""An hour, a day, a month, five years; the finest first."""

BY_RESOLUTION = {ring.resolution_s: ring for ring in RINGS}

EVENT_COUNT = 10_000
"""Events that are kept, the latest ones."""


def begin_of(resolution_s: int, time_s: float) -> int:
    """Return when the row that covers a time begins."""
    return int(time_s // resolution_s) * resolution_s


def slot_of(resolution_s: int, at_s: int) -> int:
    """Return the place of a row in its ring."""
    return at_s // resolution_s % BY_RESOLUTION[resolution_s].row_count
