"""The answers of the control socket about pools, and the policy's part of the status.

Invariant: a pool that was told to be there is stored: it survives the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.control.report import PolicyReport, PoolReport
from memfs.placement.resident import POOLS_SETTING
from memfs.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.content.activity import Activity
    from memfs.control.server import Handler
    from memfs.metadata.local import Local
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.plugins import GuardedPlanner


class PolicyMethods:
    """Answers `pool_create`, `pool_list` and `pool_remove`.

    Args:
        engine: Keeps the definitions.
        access_stats: Has the pools.
        planner: The policy in charge.
        activity: Wakes the mover.
        warm_bytes: Capacity of the RAM tier.
    """

    def __init__(
        self,
        engine: Local,
        access_stats: AccessStats,
        planner: GuardedPlanner,
        activity: Activity,
        warm_bytes: int,
    ) -> None:
        self._engine = engine
        self._access_stats = access_stats
        self._planner = planner
        self._activity = activity
        self._warm_bytes = warm_bytes

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "pool_create": self.create,
            "pool_list": self.list_pools,
            "pool_remove": self.remove,
        }

    async def create(self, name: str, size: str | int) -> PoolReport:
        """Reserve a part of the RAM tier, or give a pool another size; returns the pool."""
        self._access_stats.pools.create(name, parse_size(size), self._warm_bytes)
        await self._store()
        return self._pool_report(name)

    async def remove(self, name: str) -> None:
        """Give a pool back; its files are charged to the rest from now on."""
        self._access_stats.pools.remove(name)
        await self._store()

    async def list_pools(self) -> list[PoolReport]:
        """Return all pools, by name."""
        return [self._pool_report(name) for name in sorted(self._access_stats.pools.named)]

    def report(self) -> PolicyReport:
        """Return the policy's part of the status."""
        pools = self._access_stats.pools.named
        return PolicyReport(
            name=self._planner.name,
            note=self._planner.note,
            frozen=self._access_stats.pools.rest.queue.frozen,
            pools=tuple(self._pool_report(name) for name in sorted(pools)),
        )

    def _pool_report(self, name: str) -> PoolReport:
        pool = self._access_stats.pools.named[name]
        return PoolReport(
            name=name,
            size_bytes=self._access_stats.pools.sizes[name],
            used_bytes=pool.used_bytes,
            file_count=pool.file_count,
        )

    async def _store(self) -> None:
        async with self._engine.change():
            await self._engine.put_setting(POOLS_SETTING, self._access_stats.pools.encode())
        self._activity.wake()
