"""Back-off: pauses that double from one failure to the next, up to a longest one.

Invariant: no pause is longer than the longest one, and no pause is shorter than half of what it
would be without jitter.
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
