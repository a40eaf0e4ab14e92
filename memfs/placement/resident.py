"""Held: the files in RAM, charged to their shares, and let go by age and as shares fill.

Invariant: after a step every held file that was looked at is charged to one share as it is now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from memfs.content.residency import Residency
    from memfs.placement.decisions import Decider
    from memfs.placement.queues import Lanes
    from memfs.policy.access_stats import Heat
    from memfs.policy.pools import Share
    from memfs.policy.view import Candidate

FILES_A_STEP = 32
"""The coldest ones, looked at for their age in every round."""

FILES_A_DRAINING_STEP = 512


class HeldFiles:
    """Looks at files in RAM.

    Args:
        residency: The RAM tier.
        heat: Its shares.
        lanes: What is being moved.
        decider: Looks at files and decides.
    """

    def __init__(self, residency: Residency, heat: Heat, lanes: Lanes, decider: Decider) -> None:
        self._residency = residency
        self._shares = heat.shares
        self._lanes = lanes
        self._decider = decider

    async def step(self) -> None:
        """Look at the files that were not used for longest, and at those that must leave."""
        residency, shares = self._residency, self._shares
        if residency.held_count > len(shares):
            # Files that were fetched ahead, say.
            held = residency.coldest(residency.held_count)
            unknown = [ino for ino in held if ino not in shares]
            for candidate in await self._decider.observe(unknown[:FILES_A_DRAINING_STEP]):
                self.charge(candidate)
        candidates = await self._decider.observe(residency.coldest(FILES_A_STEP))
        for candidate in candidates:
            self.charge(candidate)
        await self._decider.decide(candidates)
        for share in shares.all():
            await self._let_pinned_go(share)
            if share.draining:
                await self._drain(share)

    def charge(self, candidate: Candidate) -> None:
        """Charge a file in RAM to its share, as it is now."""
        residency, shares, ino = self._residency, self._shares, candidate.ino
        if not candidate.held:
            # It was rewritten, and its end of writing was among events that were lost.
            residency.release(ino, drop_pages=False)
            shares.leave(ino)
            return
        pinned = candidate.pin is not None
        if pinned:
            # It stays whatever its age; out of the way of those that may go.
            residency.touch(ino)
        if ino not in self._lanes:
            shares.hold(ino, candidate.ram_bytes, candidate.priority, candidate.pool, pinned=pinned)

    async def _let_pinned_go(self, share: Share) -> None:
        """Bring the pinned files of a share down to its size, which a new pool may have cut.

        Those that were charged to it last go, and come again as far as there is room by then.
        """
        excess_bytes = share.pinned_bytes - share.budget.size_bytes
        gone = []
        for ino, size_bytes in reversed(share.pinned.items()):
            if excess_bytes <= 0:
                break
            excess_bytes -= size_bytes
            gone.append(InodeNo(ino))
        for ino in gone:
            await self._residency.unlock(ino, drop_pages=False)
            self._shares.leave(ino)
        await self._decider.decide(await self._decider.observe(gone))

    async def _drain(self, share: Share) -> None:
        """Have the files of a share leave RAM that its queue lets go."""
        used = share.view()
        needed_bytes = share.used_bytes - share.budget.low_bytes
        inos = self._shares.next_to_leave(share, needed_bytes, FILES_A_DRAINING_STEP)
        candidates = await self._decider.observe_ranked([InodeNo(ino) for ino in inos], Tier.WARM)
        for gone in set(inos).difference(candidate.ino for candidate in candidates):
            self._shares.leave(gone)
        moved = {move.ino for move in await self._decider.decide(candidates, {share.name: used})}
        for candidate in candidates:
            if candidate.ino not in moved:
                self.charge(candidate)
