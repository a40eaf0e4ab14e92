"""Precedence: while programs make requests, the daemon has the processors before other programs.

Invariant: a daemon that nobody waits for has the share of any program; what it does in the
background then takes nothing from others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.linux.priorities import set_session_nice

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

SERVING_NICE = -10
"""That of the daemon's session while programs make requests. Measured 2026-11-29 on tmpfs (kernel
6.18,
2 CPUs beside a load of 10), files a second with 0, -3 and -10: created by one client 532, 1119,
2608, by four 1133, 1483, 4273; unlinked by one 1094, 2353, 3151, by four 2397, 2700, 5051."""

LOOK_S = 0.5
"""Between two looks: a burst of requests has it before it is long."""

REQUEST_COUNT_MIN = 50
"""Requests between two looks from which on programs are taken to wait for the daemon: a program
that makes fewer spends most of its time elsewhere. Guess."""

QUIET_COUNT = 4
"""Looks in a row without as many after which it goes: each change locks the scheduler for all."""


class Precedence:
    """Follows the requests.

    Args:
        request_count: Returns how many requests programs have made so far.
        set_nice: Sets the nice value of the session; False if that cannot be.
    """

    def __init__(
        self,
        request_count: Callable[[], int],
        set_nice: Callable[[int], bool] = set_session_nice,
    ) -> None:
        self._request_count = request_count
        self._set_nice = set_nice
        self._seen_count = 0
        self._quiet_count = 0
        self._taken = False

    async def run(self) -> None:
        """Look again and again, until cancelled, or until the system refuses."""
        while True:
            await trio.sleep(LOOK_S)
            if not self.follow():
                log.debug("the share of the processors cannot be set")
                await trio.sleep_forever()

    def follow(self) -> bool:
        """Look once; False if the system refuses."""
        before, self._seen_count = self._seen_count, self._request_count()
        if self._seen_count - before >= REQUEST_COUNT_MIN:
            self._quiet_count = 0
            if not self._taken:
                self._taken = self._set_nice(SERVING_NICE)
                return self._taken
            return True
        self._quiet_count += 1
        if self._taken and self._quiet_count >= QUIET_COUNT:
            self._taken = False
            return self._set_nice(0)
        return True
