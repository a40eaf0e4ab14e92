"""Held: the files in RAM, charged to their pools, and let go by age and as pools fill.

Invariant: after a step every held file that was looked at is charged to one pool as it is now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from memfs.content.residency import Residency
    from memfs.placement.decisions import Decider
    from memfs.placement.queues import MoveQueues
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.pools import Pool
    from memfs.policy.view import Candidate

FILES_A_STEP = 32
"""The coldest ones, looked at for their age in every round."""

FILES_A_DRAINING_STEP = 512


class ResidentFiles:
    """Looks at files in RAM.

    Args:
        residency: The RAM tier.
        access_stats: Its pools.
        queues: What is being moved.
        decider: Looks at files and decides.
    """

    def __init__(
        self, residency: Residency, access_stats: AccessStats, queues: MoveQueues, decider: Decider
    ) -> None:
        self._residency = residency
        self._pools = access_stats.pools
        self._queues = queues
        self._decider = decider

    async def review(self) -> None:
        """Look at the files that were not used for longest, and at those that must leave."""
        residency, pools = self._residency, self._pools
        if residency.held_count > len(pools):
            # Files that were fetched ahead, say.
            held = residency.coldest(residency.held_count)
            unknown = [ino for ino in held if ino not in pools]
            for candidate in await self._decider.observe(unknown[:FILES_A_DRAINING_STEP]):
                self.charge(candidate)
        candidates = await self._decider.observe(residency.coldest(FILES_A_STEP))
        for candidate in candidates:
            self.charge(candidate)
        await self._decider.decide(candidates)
        for pool in pools.all():
            await self._let_pinned_go(pool)
            if pool.draining:
                await self._drain(pool)

    def charge(self, candidate: Candidate) -> None:
        """Charge a file in RAM to its pool, as it is now."""
        residency, pools, ino = self._residency, self._pools, candidate.ino
        if not candidate.held:
            # It was rewritten, and its end of writing was among events that were lost.
            residency.release(ino, drop_pages=False)
            pools.leave(ino)
            return
        pinned = candidate.pin is not None
        if pinned:
            # It stays whatever its age; out of the way of those that may go.
            residency.touch(ino)
        if ino not in self._queues:
            pools.hold(ino, candidate.ram_bytes, candidate.priority, candidate.pool, pinned=pinned)

    async def _let_pinned_go(self, pool: Pool) -> None:
        """Bring the pinned files of a pool down to its size, which a new pool may have cut.

        Those that were charged to it last go, and come again as far as there is room by then.
        """
        excess_bytes = pool.pinned_bytes - pool.capacity.size_bytes
        gone = []
        for ino, size_bytes in reversed(pool.pinned.items()):
            if excess_bytes <= 0:
                break
            excess_bytes -= size_bytes
            gone.append(InodeNo(ino))
        for ino in gone:
            await self._residency.unlock(ino, drop_pages=False)
            self._pools.leave(ino)
        await self._decider.decide(await self._decider.observe(gone))

    async def _drain(self, pool: Pool) -> None:
        """Have the files of a pool leave RAM that its queue lets go."""
        used = pool.view()
        needed_bytes = pool.used_bytes - pool.capacity.low_bytes
        inos = self._pools.next_to_leave(pool, needed_bytes, FILES_A_DRAINING_STEP)
        candidates = await self._decider.observe_ranked([InodeNo(ino) for ino in inos], Tier.WARM)
        for gone in set(inos).difference(candidate.ino for candidate in candidates):
            self._pools.leave(gone)
        moved = {move.ino for move in await self._decider.decide(candidates, {pool.name: used})}
        for candidate in candidates:
            if candidate.ino not in moved:
                self.charge(candidate)
