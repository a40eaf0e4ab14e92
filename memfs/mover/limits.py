"""Limits: the policy's limits from the configuration and budgets as measured now.

Invariant: a pure function; the mover measures, the policy gets numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.policy.view import Budget, Limits

if TYPE_CHECKING:
    from memfs.config import Config

_NS = 1_000_000_000


def limits_of(config: Config, warm_bytes: int, cold_bytes: int, *, glacier: bool) -> Limits:
    """Return the policy's limits for budgets as measured now."""
    warm, cold, policy = config.warm, config.cold, config.policy
    return Limits(
        warm=Budget.of(warm_bytes, warm.high_watermark, warm.low_watermark),
        cold=Budget.of(cold_bytes, cold.high_watermark, cold.low_watermark),
        warm_to_cold_ns=int(policy.warm_to_cold_s * _NS),
        pack_after_ns=int(policy.pack_after_s * _NS),
        cold_to_glacier_ns=int(policy.cold_to_glacier_s * _NS),
        glacier=glacier,
    )
