"""Usage: how full the tiers are, and the limits that the policy gets from that.

Invariant: all that is decided in one round rests on one measurement and one time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.content.space import measure_cold_space
from memfs.policy.plan import is_draining
from memfs.policy.view import Capacity, Limits
from memfs.types import InodeNo

if TYPE_CHECKING:
    from memfs.config import Config
    from memfs.content.space import ColdSpace
    from memfs.placement.context import Context

_NS = 1_000_000_000


class TierUsage:
    """How full the tiers of one mount are, as they were measured last."""

    def __init__(self, config: Config) -> None:
        self.now_ns = 0
        """Wall clock of the measurement."""
        self.limits = limits_of(config, 0, 0, glacier=False)
        self.cold_used_bytes = 0
        """Of the disk tier, without what moves under way will free."""
        self.cold_draining = False

    @property
    def cold_excess_bytes(self) -> int:
        """What is to leave the disk until it is down to its low watermark."""
        return self.cold_used_bytes - self.limits.cold.low_bytes

    def note_leaving(self, size_bytes: int) -> None:
        """Count what a move that was just decided will free on the disk."""
        self.cold_used_bytes = max(0, self.cold_used_bytes - size_bytes)


def limits_of(config: Config, warm_bytes: int, cold_bytes: int, *, glacier: bool) -> Limits:
    """Return the policy's limits from the configuration and from capacities as measured now."""
    warm, cold, policy = config.warm, config.cold, config.policy
    return Limits(
        warm=Capacity.of(warm_bytes, warm.high_watermark, warm.low_watermark),
        cold=Capacity.of(cold_bytes, cold.high_watermark, cold.low_watermark),
        warm_to_cold_ns=int(policy.warm_to_cold_s * _NS),
        pack_after_ns=int(policy.pack_after_s * _NS),
        cold_to_glacier_ns=int(policy.cold_to_glacier_s * _NS),
        glacier=glacier,
    )


async def measure(context: Context) -> None:
    """Bring capacities, use and draining up to now."""
    usage, parts, stats = context.usage, context.parts, context.access_stats
    usage.now_ns = context.clock()
    cold = parts.config.cold
    space = measure_cold_space(context.state_dir, cold, await parts.engine.usage())
    limits = limits_of(
        parts.config,
        max(0, parts.residency.capacity_bytes - sum(context.pools.sizes.values())),
        space.capacity_bytes,
        glacier=parts.remote is not None,
    )._replace(ram=parts.residency.capacity_bytes > 0, store_ready=context.store_ready)
    # A capacity that the user has set is relieved wherever the store lies, a disk is not.
    if cold.size_bytes is None or space.capacity_bytes < cold.size_bytes:
        limits = limits._replace(store_frees=parts.store_elsewhere)
    usage.limits = stats.limits = limits
    _measure_room(context, space)
    usage.cold_used_bytes = max(0, space.used_bytes - context.queues.freeing_bytes)
    stats.cold.resize(limits.cold.high_bytes)
    _measure_pools(context)
    usage.cold_draining = is_draining(usage.cold_draining, usage.cold_used_bytes, limits.cold)


def describe_usage(context: Context) -> dict[str, object]:
    """Return capacities and use, for `memfs status`."""
    usage = context.usage
    return {
        "warm": context.residency.status() | {"draining": context.pools.rest.draining},
        "cold": {
            "capacity_bytes": usage.limits.cold.size_bytes,
            "used_bytes": usage.cold_used_bytes,
            "draining": usage.cold_draining,
        },
    }


def _measure_room(context: Context, space: ColdSpace) -> None:
    """Tell what holds writers back when to, and whether that helps."""
    parts, limits = context.parts, context.usage.limits
    if parts.room is None:
        return
    parts.room.relief = limits.glacier and limits.store_ready and parts.store_elsewhere
    # Of the disk, not of a capacity: beyond `cold.size` there is still room to write to.
    unfilled = 1.0 - parts.config.cold.high_watermark
    parts.room.floor_bytes = space.reserve_bytes + int(space.available_bytes * unfilled)


def _measure_pools(context: Context) -> None:
    pools, warm, residency = context.pools, context.config.warm, context.residency
    if len(pools) > residency.held_count:
        pools.retain(lambda ino: residency.is_held(InodeNo(ino)))
    pools.rest.resize(context.usage.limits.warm)
    for name, size_bytes in pools.sizes.items():
        pools.named[name].resize(Capacity.of(size_bytes, warm.high_watermark, warm.low_watermark))
    for pool in pools.all():
        pool.draining = is_draining(pool.draining, pool.used_bytes, pool.capacity)
