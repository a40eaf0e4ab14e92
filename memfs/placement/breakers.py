"""Breakers: whether each store is worth asking, as the moves have found.

Invariant: what one store did says nothing of another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.backoff import CircuitBreaker

if TYPE_CHECKING:
    import random

    from memfs.config import Config


class StoreBreakers:
    """The circuit breakers of a mount's stores.

    Args:
        config: Names the stores, and tells the pauses.
        rng: Gives jitter.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        policy = config.policy
        self._by_name = {
            name: CircuitBreaker(policy.retry_s_min, policy.retry_s_max, rng)
            for name in ("", *config.stores)
        }
        # A store that is not configured refuses at once, and fails nobody else.
        self._absent = CircuitBreaker(policy.retry_s_min, policy.retry_s_max, rng)

    def of(self, store: str) -> CircuitBreaker:
        """Return that of a store by its name; empty: the default one."""
        return self._by_name.get(store, self._absent)

    @property
    def any_ready(self) -> bool:
        """True if a store is worth asking."""
        return any(not breaker.wait_s for breaker in self._by_name.values())
