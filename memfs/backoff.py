"""Back-off: pauses that double from one failure to the next, up to a longest one.

Invariant: no pause is longer than the longest one, and no pause is shorter than half of what it
would be without jitter. While a circuit breaker is open nobody asks: so thousands of waiting files
cost a store that is down one attempt, not one each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import random

JITTER = 0.5
"""Share of a pause that is left to chance: what an outage stopped together, as the nodes of one
store, must not come back together. Guess."""


def pause_after(
    failure_count: int, first_s: float, longest_s: float, rng: random.Random | None = None
) -> float:
    """Return the pause after so many failures in a row.

    Args:
        failure_count: > 0.
        first_s: The pause after the first one.
        longest_s: No pause is longer.
        rng: Gives jitter, which shortens a pause; without one all pauses are exact.
    """
    # 2 to the power of some thousand is no float.
    pause_s = min(longest_s, first_s * 2.0 ** min(failure_count - 1, 60))
    return pause_s if rng is None else pause_s * rng.uniform(1 - JITTER, 1)


class Backoff:
    """The pauses of one thing that is tried again and again; the clock is trio's.

    Args:
        first_s: The pause after the first failure.
        longest_s: No pause is longer.
        rng: Gives jitter; without one all pauses are exact.
    """

    def __init__(self, first_s: float, longest_s: float, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng
        self._failure_count = 0
        self._again_s = float("-inf")

    @property
    def wait_s(self) -> float:
        """Seconds until the next attempt is due; 0: now."""
        return max(0.0, self._again_s - trio.current_time())

    def fail(self) -> float:
        """Count a failure; returns the pause, which begins now."""
        self._failure_count += 1
        pause_s = pause_after(self._failure_count, self._first_s, self._longest_s, self._rng)
        self._again_s = trio.current_time() + pause_s
        return pause_s

    def reset(self) -> None:
        """The next attempt is due at once, and the next pause is the first one again."""
        self._failure_count = 0
        self._again_s = float("-inf")


class CircuitBreaker:
    """Whether a store is worth asking: one back-off for all who ask it.

    Args:
        first_s: As `Backoff`.
        longest_s: Likewise.
        rng: Gives jitter.
    """

    def __init__(self, first_s: float, longest_s: float, rng: random.Random) -> None:
        self._backoff = Backoff(first_s, longest_s, rng)
        self.reason: str | None = None
        """Why the store failed last; None while it works."""

    @property
    def wait_s(self) -> float:
        """Seconds until the store is asked again; 0: now."""
        return self._backoff.wait_s

    def fail(self, reason: str) -> None:
        """The store refused or did not answer."""
        self.reason = reason
        # Otherwise it was one of those that were under way when it opened: no second failure.
        if not self.wait_s:
            self._backoff.fail()

    def succeed(self) -> None:
        """The store did what it was asked."""
        self.reason = None
        self._backoff.reset()
