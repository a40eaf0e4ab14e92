"""Rolling up: coarser rows made of finer ones.

Invariant: a row is made of all rows of its period, once that is over; rows that lie in the future,
because the clock was set back, are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metrics.numbers import Numbers, combine, lasting
from memfs.metrics.rings import begin_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Period(NamedTuple):
    """What was measured in one period."""

    at_s: int
    """When it began."""
    numbers: Numbers


def roll_up(
    finer: Iterable[Period], resolution_s: int, *, after_s: int, before_s: int
) -> list[Period]:
    """Return the rows of a coarser ring that finer ones come to, in order of time.

    Args:
        finer: In order of time.
        resolution_s: That of the coarser ring.
        after_s: Rows that begin then or earlier are there already.
        before_s: Rows that begin then or later are not made.
    """
    periods: dict[int, list[Numbers]] = {}
    for at_s, numbers in finer:
        begin_s = begin_of(resolution_s, at_s)
        if after_s < begin_s < before_s:
            periods.setdefault(begin_s, []).append(numbers)
    return [Period(begin_s, combine(rows)) for begin_s, rows in periods.items()]


def fill(periods: Sequence[Period], *, resolution_s: int, until_s: int) -> list[Period]:
    """Return rows without gaps: where nothing was stored, all was as before, and nothing happened.

    Args:
        periods: In order of time.
        resolution_s: Theirs.
        until_s: No row begins then or later.
    """
    filled: list[Period] = []
    for period in periods:
        filled += _gap(filled, resolution_s, period.at_s)
        filled.append(period)
    return filled + _gap(filled, resolution_s, until_s)


def _gap(filled: Sequence[Period], resolution_s: int, until_s: int) -> list[Period]:
    if not filled:
        return []
    last = filled[-1]
    still = lasting(last.numbers)
    return [Period(at_s, still) for at_s in range(last.at_s + resolution_s, until_s, resolution_s)]
