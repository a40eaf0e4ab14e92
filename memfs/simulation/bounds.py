"""Bounds: what no queue can exceed, whatever it knows of the future.

Invariant: never below what a queue that fetches on demand can reach; sizes may differ.

To serve a row without fetching, a tier must have held the key since the row that used it before:
its size, times the rows between. A tier has its capacity, times all rows, to give. Taking the
cheapest of these intervals first, regardless of when they are, gives at least as many hits as any
real choice (Berger et al., Practical Bounds on Optimal Caching with Variable Object Sizes, 2018).
What is fetched ahead of its use by prediction is not bound so.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, NamedTuple

from memfs.traces.trace import Event

if TYPE_CHECKING:
    from memfs.traces.trace import Trace

_STEPS_A_DOUBLING = 64
"""Intervals are put into classes by cost, each 1.1 % wide: the memory stays small, and the bound
is too high by at most one class."""


class Bound(NamedTuple):
    """That of one tier."""

    hit_count: float
    hit_bytes: float


class _Class:
    """Intervals whose cost for what they are worth lies between two near values."""

    def __init__(self) -> None:
        self.worth = 0
        self.cost = 0
        self.cost_min = math.inf
        """Smallest cost of a unit of worth."""


def bound_hits(trace: Trace, capacity_bytes: int) -> Bound:
    """Return upper bounds on the accesses, and on their bytes, that a tier can serve."""
    by_count: dict[int, _Class] = {}
    by_bytes: dict[int, _Class] = {}
    lasts = array("i", [-1]) * len(trace.names)
    rows = zip(trace.events, trace.keys, trace.sizes_bytes, strict=True)
    for row, (event, key, size) in enumerate(rows):
        last, lasts[key] = lasts[key], -1 if event == Event.REMOVE else row
        if event == Event.ACCESS and last >= 0 and size <= capacity_bytes:
            length = row - last
            _count(by_count, 1, size * length)
            _count(by_bytes, size, size * length)
    supply = capacity_bytes * len(trace)
    return Bound(_take(by_count, supply), _take(by_bytes, supply))


def _count(classes: dict[int, _Class], worth: int, cost: int) -> None:
    unit_cost = cost / worth if worth else 0.0
    number = int(math.log2(unit_cost + 1) * _STEPS_A_DOUBLING)
    found = classes.get(number)
    if found is None:
        found = classes[number] = _Class()
    found.worth += worth
    found.cost += cost
    found.cost_min = min(found.cost_min, unit_cost)


def _take(classes: dict[int, _Class], supply: float) -> float:
    """Return the worth of the cheapest intervals that the supply pays for."""
    worth = 0.0
    for number in sorted(classes):
        found = classes[number]
        if found.cost > supply:
            return worth + min(found.worth, supply / found.cost_min)
        worth += found.worth
        supply -= found.cost
    return worth
