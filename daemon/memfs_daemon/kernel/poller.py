"""The adaptive poller: how the serving thread waits for the next request.

Invariant: it looks no longer than looking pays; a thread that others need is not kept running.

To wake a thread on another processor takes some 70 us on a virtual machine whose processors halt
when they are idle, and processor time at both ends; a program that is alone asks again within
about that. Measured 2026-11-27, 2 vCPU, ext4, one program that loops over 1000 files, medians of
12 interleaved samples, us without and with looking: create + write + close 789, 687; open + read +
close 263, 200; unlink 357, 291; with four other programs that want the processors 878, 707; 434,
464; 415, 425.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S_MIN, LOOK_S_MAX = 25e-6, 200e-6
"""Shortest and longest look. A look costs about 1 us, and a program answers within 0.1 ms."""

PREEMPTED_S = 60e-6
"""A look that took so long was one in which the thread was not let run. Of 20, 60, 200 and 600 us,
20 gives up for nothing on an idle machine, and 200 and 600 cost 30 % where others want to run."""

CALM_S = 0.02
"""So long nothing is looked for after that. Guess."""

PAUSE_MS = 1
"""How long the thread then sleeps for the next request before it goes back to trio's loop: a
program that does one thing after the other asks again within 0.1 ms, and the way through the loop
and back costs more (20 us: guess). 1 is the least that poll(2) takes."""


class AdaptivePoller:
    """Waits for requests, and learns how long it pays to look.

    Args:
        wait: Blocks for so many milliseconds at most; true once a request is waiting.
        clock: Seconds; replaced by tests.
    """

    def __init__(
        self, wait: Callable[[int], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wait = wait
        self._clock = clock
        self._calm_s = float("-inf")
        self.look_s = 0.0
        """How long it looks at present."""

    def find_next(self, *, may_sleep: bool) -> bool:
        """Return whether another request has come, after looking and then sleeping for it.

        The time follows what is seen, as the kernel's haltpoll governor does it: twice as long
        where a request came soon after the thread had gone to sleep, half as long where no request
        came.

        Args:
            may_sleep: False: trio has other tasks for the thread.
        """
        wait, clock = self._wait, self._clock
        begin_s = now_s = clock()
        end_s = begin_s + self.look_s
        while True:
            found = wait(0)
            before_s, now_s = now_s, clock()
            if now_s - before_s > PREEMPTED_S:
                self.look_s, self._calm_s = 0.0, now_s + CALM_S
                break
            if found or now_s >= end_s:
                break
        if found:
            return True
        if not may_sleep or not wait(PAUSE_MS):
            self.look_s = self.look_s / 2 if self.look_s > LOOK_S_MIN else 0.0
            return False
        if begin_s > self._calm_s and clock() - begin_s < LOOK_S_MAX:
            self.look_s = min(LOOK_S_MAX, max(LOOK_S_MIN, 2 * self.look_s))
        return True
