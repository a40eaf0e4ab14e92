"""The circuit breaker: one back-off for all files while the object store is down.

Invariant: while it is closed nobody asks the store; when its pause is over, the first failure
closes it again for twice as long. So thousands of waiting files cost one attempt, not one each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.backoff import Backoff

if TYPE_CHECKING:
    import random

    from memfs.config import PolicyConfig


class CircuitBreaker:
    """Whether the object store is worth asking.

    Args:
        policy: Shortest and longest pause.
        rng: Jitter.
    """

    def __init__(self, policy: PolicyConfig, rng: random.Random) -> None:
        self._backoff = Backoff(policy.retry_s_min, policy.retry_s_max, rng)
        self.reason: str | None = None
        """Why the store failed last; None while it works."""

    @property
    def wait_s(self) -> float:
        """Seconds until the store is asked again; 0: now."""
        return self._backoff.wait_s

    def fail(self, reason: str) -> None:
        """The store refused or did not answer."""
        self.reason = reason
        # Otherwise it was one of those that were under way when it closed: no second failure.
        if not self.wait_s:
            self._backoff.fail()

    def succeed(self) -> None:
        """The store did what it was asked."""
        self.reason = None
        self._backoff.reset()
