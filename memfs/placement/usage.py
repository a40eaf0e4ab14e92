"""Usage: how full the tiers are, and the limits that the policy gets from that.

Invariant: all that is decided in one round rests on one measurement and one time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memfs.content.space import measure_cold_space
from memfs.policy.plan import is_draining
from memfs.policy.view import Capacity, Limits, TierView
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from memfs.config import Config
    from memfs.content.space import ColdSpace
    from memfs.moves.attempt import MoveParts
    from memfs.placement.placer import Placer
    from memfs.placement.queues import MoveQueues
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.view import Candidate, PoolView

_NS = 1_000_000_000


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


class TierUsage:
    """Measures the tiers of one mount.

    Args:
        parts: The engine and the RAM tier among them.
        queues: Know what is about to leave the disk.
        placer: Knows whether the object store is worth asking.
        access_stats: Its queues get the sizes of their tiers.
        state_dir: On the disk of the cold tier.
    """

    def __init__(
        self,
        parts: MoveParts,
        queues: MoveQueues,
        placer: Placer,
        access_stats: AccessStats,
        state_dir: Path,
    ) -> None:
        self._parts = parts
        self._queues = queues
        self._placer = placer
        self._access_stats = access_stats
        self._state_dir = state_dir
        self.now_ns = 0
        """Wall clock of the measurement."""
        self.limits = limits_of(parts.config, 0, 0, glacier=False)
        self.cold_used_bytes = 0
        """Of the disk tier, without what moves under way will free."""
        self.cold_draining = False

    @property
    def cold_excess_bytes(self) -> int:
        """What is to leave the disk until it is down to its low watermark."""
        return self.cold_used_bytes - self.limits.cold.low_bytes

    async def measure(self) -> None:
        """Bring capacities, use and draining up to now."""
        self.now_ns = time.time_ns()
        parts, pools = self._parts, self._access_stats.pools
        cold = parts.config.cold
        space = measure_cold_space(self._state_dir, cold, await parts.engine.usage())
        self.limits = limits_of(
            parts.config,
            max(0, parts.residency.capacity_bytes - sum(pools.sizes.values())),
            space.capacity_bytes,
            glacier=parts.remote is not None,
        )._replace(ram=parts.residency.capacity_bytes > 0, store_ready=self._placer.store_ready)
        # A capacity that the user has set is relieved wherever the store lies, a disk is not.
        if cold.size_bytes is None or space.capacity_bytes < cold.size_bytes:
            self.limits = self.limits._replace(store_frees=parts.store_elsewhere)
        self._measure_room(space)
        self.cold_used_bytes = max(0, space.used_bytes - self._queues.freeing_bytes)
        self._access_stats.limits = self.limits
        self._access_stats.cold.resize(self.limits.cold.high_bytes)
        self._measure_pools()
        self.cold_draining = is_draining(self.cold_draining, self.cold_used_bytes, self.limits.cold)

    def _measure_room(self, space: ColdSpace) -> None:
        """Tell who holds writers back when to, and whether that helps."""
        room = self._parts.room
        if room is None:
            return
        room.relief = (
            self.limits.glacier and self.limits.store_ready and self._parts.store_elsewhere
        )
        # Of the disk, not of a capacity: beyond `cold.size` there is still room to write to.
        unfilled = 1.0 - self._parts.config.cold.high_watermark
        room.floor_bytes = space.reserve_bytes + int(space.available_bytes * unfilled)

    def note_leaving(self, size_bytes: int) -> None:
        """Count what a move that was just decided will free on the disk."""
        self.cold_used_bytes = max(0, self.cold_used_bytes - size_bytes)

    def view(self, candidates: Sequence[Candidate], pools: Mapping[str, PoolView]) -> TierView:
        """Return what the policy sees.

        Args:
            candidates: Some files.
            pools: Pools of the RAM tier that are to be seen otherwise than they are now.
        """
        rest = pools.get("") or self._access_stats.pools.rest.view()
        named = self._access_stats.pools.named
        return TierView(
            self.now_ns,
            rest.used_bytes,
            self.cold_used_bytes,
            rest.draining,
            self.cold_draining,
            candidates,
            {name: pools.get(name) or pool.view() for name, pool in named.items()},
        )

    def status(self) -> dict[str, object]:
        """Return capacities and use, for `memfs status`."""
        return {
            "warm": self._parts.residency.status()
            | {"draining": self._access_stats.pools.rest.draining},
            "cold": {
                "capacity_bytes": self.limits.cold.size_bytes,
                "used_bytes": self.cold_used_bytes,
                "draining": self.cold_draining,
            },
        }

    def _measure_pools(self) -> None:
        pools, warm = self._access_stats.pools, self._parts.config.warm
        residency = self._parts.residency
        if len(pools) > residency.held_count:
            pools.retain(lambda ino: residency.is_held(InodeNo(ino)))
        pools.rest.resize(self.limits.warm)
        for name, size_bytes in pools.sizes.items():
            pools.named[name].resize(
                Capacity.of(size_bytes, warm.high_watermark, warm.low_watermark)
            )
        for pool in pools.all():
            pool.draining = is_draining(pool.draining, pool.used_bytes, pool.capacity)
