"""The background throttle: moves that nobody waits for go slowly while programs use the disk.

Invariant: a slow move still moves on, and one that keeps the disk from running full is not slow.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

import trio

from memfs.linux.priorities import low_priority
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

REST_FACTOR = 9
"""A worker rests so many times as long as it has worked: a tenth of its speed. Guess."""

REST_S_MAX = 5.0
"""Longest rest after one piece of work."""

LOOK_S = 0.1
"""A rest ends so soon after the programs have, or the move was given up."""


class BackgroundThrottle:
    """Whether demotions go slowly; set by the mover, heeded by the moves.

    Args:
        clock: Seconds, for worker threads.
        sleep: Lets a worker thread rest for so many seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self.giving_way = False
        """Programs use the disk, and it has room. One reference, read by worker threads."""
        self.urgent = False
        """Nothing gives way: the disk is too full for that, or it is configured so."""
        self._turn_counts: Counter[str] = Counter()
        """By the name of the store."""
        self._changed = Signal()

    def decide(self, *, giving_way: bool, urgent: bool) -> None:
        """Set how the moves go from now on."""
        self.giving_way, self.urgent = giving_way, urgent
        self._changed.set()

    @contextlib.asynccontextmanager
    async def turn(self, store: str = "") -> AsyncIterator[None]:
        """Make one demotion at a time while giving way, and as many as there are otherwise.

        Args:
            store: Name of the store that it goes to: one that hangs takes no turn of another one.
        """
        while self.giving_way and self._turn_counts[store]:
            await self._changed.wait(self._changed.count)
        self._turn_counts[store] += 1
        try:
            yield
        finally:
            self._turn_counts[store] -= 1
            self._changed.set()

    @contextlib.contextmanager
    def stint(self, check: Callable[[], None] | None = None) -> Iterator[Callable[[], None]]:
        """Work in a worker thread for the block, at low priority.

        The function that it gets is called after each piece of work; it rests, and raises
        `trio.Cancelled` if the move was given up.

        Args:
            check: Called then as well, and during a rest; may raise.
        """
        since_s = self._clock()

        def stop_if_unwanted() -> None:
            trio.from_thread.check_cancelled()
            if check is not None:
                check()

        def rest() -> None:
            nonlocal since_s
            stop_if_unwanted()
            worked_s = self._clock() - since_s
            end_s = self._clock() + min(REST_S_MAX, worked_s * REST_FACTOR)
            while self.giving_way and (left_s := end_s - self._clock()) > 0:
                self._sleep(min(left_s, LOOK_S))
                stop_if_unwanted()
            since_s = self._clock()

        with contextlib.nullcontext() if self.urgent else low_priority():
            yield rest
