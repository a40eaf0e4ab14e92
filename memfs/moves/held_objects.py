"""Held objects: nothing refers to them any longer, but nodes that read may need them.

Such a node follows the writer, and its programs read the objects that a file had when they opened
it. So an object that has become garbage stays until all live nodes have applied the change that
made it so, and until some time has passed.

The time is kept by marks: what was garbage at one moment, and the number of the last change by
then. They are in memory alone: for a new daemon, what is garbage has become so at its start.

Invariant: what is let go has been garbage for `keep_s` at least, and every node that reads and is
heard of has applied that. Marks are bounded; where there are too many, objects stay longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.engine import Engine

MARKS_A_SPAN = 32
"""Marks made in the time that objects stay: each stays longer by one part of so many, at most."""

MARKS_MAX = 128
"""Beyond, every second one is dropped: nodes may have applied nothing for long."""


class _Mark(NamedTuple):
    """A moment."""

    made_s: float
    """By trio's clock."""
    change: int
    """Number of the last change by then."""
    below: int
    """What was garbage by then has a lower number."""


class HeldObjects:
    """Tells the collector which objects stay.

    Args:
        last_change: Returns the number of the last change that this node has made.
        applied: Returns up to which number all live nodes that read have applied changes; and no
            more than had been made when they were last asked for.
        keep_s: Seconds that objects stay at least.
    """

    def __init__(
        self, last_change: Callable[[], int], applied: Callable[[], int], keep_s: float
    ) -> None:
        self._last_change = last_change
        self._applied = applied
        self._keep_s = keep_s
        self._marks: list[_Mark] = []
        self._made_below = 0
        self.held_from = 0
        """Objects that have become garbage with this number or a higher one stay."""

    async def look(self, engine: Engine) -> None:
        """Make a mark if it is time for one, and let go what may go.

        Raises:
            MetadataError: Changes could not be committed.
        """
        await self._mark(engine)
        now_s, applied = trio.current_time(), self._applied()
        ripe_count = 0
        for mark in self._marks:
            if now_s - mark.made_s < self._keep_s or applied < mark.change:
                break
            self.held_from = mark.below
            ripe_count += 1
        del self._marks[:ripe_count]

    async def _mark(self, engine: Engine) -> None:
        pause_s = self._keep_s / MARKS_A_SPAN
        if self._marks and trio.current_time() - self._marks[-1].made_s < pause_s:
            return
        below = await engine.last_garbage() + 1
        if below <= self._made_below:
            return
        # What has a lower number is committed afterwards, or undone.
        await engine.commit()
        self._made_below = below
        self._marks.append(_Mark(trio.current_time(), self._last_change(), below))
        if len(self._marks) > MARKS_MAX:
            # The later one of two stands for both.
            del self._marks[:-1:2]
