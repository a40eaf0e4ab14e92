"""Migration policy: when files leave a tier because nobody uses them, in the words of the API."""

from __future__ import annotations

import json
from dataclasses import dataclass

from memfs.manager.arguments import check_threshold

_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S


@dataclass(frozen=True)
class MigrationPolicy:
    """When what nobody uses moves on.

    Attributes:
        hot_to_warm_threshold: Hours until tensors that no program has on a device leave it.
        warm_to_cold_threshold: Hours until a file leaves RAM.
        cold_to_glacier_threshold: Days until a file goes to the object store.

    Raises:
        ValueError: A threshold is negative.
    """

    hot_to_warm_threshold: float = 24
    warm_to_cold_threshold: float = 72
    cold_to_glacier_threshold: float = 30

    def __post_init__(self) -> None:
        for name in ("hot_to_warm", "warm_to_cold", "cold_to_glacier"):
            check_threshold(f"{name}_threshold", getattr(self, f"{name}_threshold"))

    def mark(self) -> bytes:
        """Return the value of `user.memfs.policy` that says the same."""
        ages = {
            "hot_to_warm": float(self.hot_to_warm_threshold * _HOUR_S),
            "warm_to_cold": float(self.warm_to_cold_threshold * _HOUR_S),
            "cold_to_glacier": float(self.cold_to_glacier_threshold * _DAY_S),
        }
        return json.dumps(ages).encode()
