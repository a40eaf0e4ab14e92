"""The store gate: one back-off for all files while the object store is down.

Invariant: while it is closed nobody asks the store; when its pause is over, the first failure
closes it again for twice as long. So thousands of waiting files cost one attempt, not one each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import random

    from memfs.config import PolicyConfig


class StoreGate:
    """Whether the object store is worth asking.

    Args:
        policy: Shortest and longest pause.
        rng: Jitter.
    """

    def __init__(self, policy: PolicyConfig, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._pause_s = 0.0
        self._open_s = float("-inf")
        self.reason: str | None = None
        """Why the store failed last; None while it works."""

    @property
    def wait_s(self) -> float:
        """Seconds until the store is asked again; 0: now."""
        return max(0.0, self._open_s - trio.current_time())

    def fail(self, reason: str) -> None:
        """The store refused or did not answer."""
        self.reason = reason
        if self.wait_s:
            # One of those that were under way when it closed: that is no second failure.
            return
        self._pause_s = min(
            self._policy.retry_s_max, max(self._policy.retry_s_min, 2 * self._pause_s)
        )
        self._open_s = trio.current_time() + self._pause_s * self._rng.uniform(0.8, 1.2)

    def succeed(self) -> None:
        """The store did what it was asked."""
        self.reason = None
        self._pause_s = 0.0
        self._open_s = float("-inf")
