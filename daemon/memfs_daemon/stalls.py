"""Stalls: how often the event loop had no time for anything else for long.

Invariant: it costs two looks at the clock for each pass of the loop, however many tasks ran in it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

STALL_S = 0.05
"""A pass of the loop that takes longer keeps programs waiting that have nothing to do with it."""


class Stalls(trio.abc.Instrument):
    """Counts long passes of the loop that it is installed in; see `trio.abc.Instrument`.

    Args:
        clock: Monotonic, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun_s: float | None = None
        self.count = 0
        """Passes that took longer than `STALL_S`."""
        self.total_s = 0.0
        """The time that these took."""

    def after_io_wait(self, timeout: float) -> None:
        """The loop has what its tasks waited for: a pass begins."""
        self._begun_s = self._clock()

    def before_io_wait(self, timeout: float) -> None:
        """All tasks wait again: the pass has ended."""
        if self._begun_s is not None:
            elapsed_s = self._clock() - self._begun_s
            if elapsed_s > STALL_S:
                self.count += 1
                self.total_s += elapsed_s

    async def run(self) -> None:
        """Watch the present loop until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            self._begun_s = None
            trio.lowlevel.remove_instrument(self)
