"""Uses: the files that programs wrote or opened since the last round.

Invariant: every use is counted by the queues of its tiers; how many files are looked at in a round
is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.moves.hydrating import take_hydrated
from memfs.policy.goals import goal_of_pin, next_step
from memfs.types import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.content.activity import Activity
    from memfs.moves.attempt import MoveParts
    from memfs.placement.decisions import Decider
    from memfs.placement.pins import Pins
    from memfs.placement.placer import Placer
    from memfs.placement.queues import MoveQueues
    from memfs.placement.usage import TierUsage
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.view import Candidate
    from memfs.types import InodeNo

FRESH_A_ROUND = 512
"""Files written or used just now that are looked at in one round: some 20 ms. The rest, an
overload, is left to the kernel's own cache unless it is pinned."""

IDLE_COPY_S = 60.0
"""The raw copy of a file that is pinned to a slower tier goes after so long without use. Guess:
spans the pauses of a program that opens a file again and again."""


class Uses:
    """Takes what programs did.

    Args:
        parts: The engine and the RAM tier among them.
        activity: What programs did.
        usage: How full the tiers are.
        queues: What is being moved.
        decider: Looks at files and decides.
        placer: Records what waits.
        pins: Finds those among too many files that are pinned.
        access_stats: Counts.
    """

    def __init__(
        self,
        parts: MoveParts,
        activity: Activity,
        usage: TierUsage,
        queues: MoveQueues,
        decider: Decider,
        placer: Placer,
        pins: Pins,
        access_stats: AccessStats,
    ) -> None:
        self._engine = parts.engine
        self._residency = parts.residency
        self._parts = parts
        self._activity = activity
        self._usage = usage
        self._queues = queues
        self._decider = decider
        self._placer = placer
        self._pins = pins
        self._access_stats = access_stats
        self._sealed_moving: dict[InodeNo, None] = {}
        """Files sealed while they were being moved."""

    async def take_uses(self) -> None:
        """Look at what was written or used, and decide."""
        # First, so that a copy just fetched for a program is not taken away at once.
        await self._put_off_hydrated()
        await self._decider.decide(await self._observe_fresh(await self._take_fresh()))

    async def _put_off_hydrated(self) -> None:
        """Note when the raw copies of files pinned to slower tiers go again."""
        for candidate in await self._decider.observe(take_hydrated(self._parts)):
            ino = candidate.ino
            if candidate.pin is None:
                self._access_stats.take_local(ino, candidate.local_bytes, copied=candidate.remote)
            if candidate.pin is None or candidate.pin >= Tier.WARM:
                continue
            # One that was rewritten is the only form of its content and no copy.
            copied = candidate.packed or candidate.remote
            settled = next_step(candidate, goal_of_pin(candidate.pin, self._usage.limits)) is None
            if copied and not settled and ino not in self._queues:
                reason = f"it was used; its local copy goes after {IDLE_COPY_S:.0f} s without use"
                await self._placer.postpone(ino, candidate.pin, reason, IDLE_COPY_S)

    async def _take_fresh(self) -> list[InodeNo]:
        """Store the last uses; returns files written or used since the last round."""
        accesses = self._activity.take_accesses()
        if accesses:
            async with self._engine.change():
                await self._engine.record_access(accesses)
        fresh = dict.fromkeys(self._take_sealed())
        if len(fresh) > FRESH_A_ROUND:
            # Some of the rest may be pinned.
            self._pins.survey()
        for ino, _ in accesses:
            if self._residency.is_held(ino):
                self._use_held(ino)
            elif len(fresh) < FRESH_A_ROUND:
                fresh[ino] = None
        return list(fresh)[:FRESH_A_ROUND]

    def _take_sealed(self) -> list[InodeNo]:
        """Return the files sealed since the last round that are not being moved.

        A move that began before the file was rewritten ends without a result, and nobody would look
        at the file again: such files come back when their move has ended.
        """
        sealed = self._sealed_moving | dict.fromkeys(self._activity.take_sealed())
        self._sealed_moving = {ino: None for ino in sealed if ino in self._queues}
        return [ino for ino in sealed if ino not in self._sealed_moving]

    def _use_held(self, ino: InodeNo) -> None:
        self._residency.touch(ino)
        size = self._residency.charged_bytes(ino)
        pool = self._access_stats.pools.pool_of(ino)
        if pool is not None:
            pool.queue.access(ino, size)
        self._access_stats.use_local(ino, size, copied=False)

    async def _observe_fresh(self, inos: Iterable[InodeNo]) -> list[Candidate]:
        """Return files that were written or used just now, with what their queues make of that."""
        room_bytes = {
            pool.name: pool.queue.capacity_bytes - pool.queue.used_bytes
            for pool in self._access_stats.pools.all()
        }
        weighed = []
        for candidate in await self._decider.observe(inos, fresh=True):
            candidate = self._weigh(candidate, room_bytes.get(candidate.pool, 0))
            if candidate.admitted and candidate.pool in room_bytes:
                room_bytes[candidate.pool] -= candidate.ram_bytes
            weighed.append(candidate)
        return weighed

    def _weigh(self, candidate: Candidate, room_bytes: int) -> Candidate:
        """Count a use; `room_bytes` are left of the file's pool by those before it."""
        access_stats, ino = self._access_stats, candidate.ino
        read_often = False
        if candidate.raw or candidate.packed:
            access_stats.use_local(ino, candidate.local_bytes, copied=candidate.remote)
        else:
            access_stats.cold.access(ino, candidate.ram_bytes)
        if not candidate.raw:
            read_often = access_stats.is_read_often(ino, candidate.ram_bytes, self._usage.now_ns)
        queue = access_stats.pools.pool(candidate.pool).queue
        admitted = queue.access(ino, candidate.ram_bytes) or queue.admits(ino, candidate.ram_bytes)
        if queue.frozen and ino not in queue and candidate.ram_bytes > room_bytes:
            admitted = False
        return candidate._replace(admitted=admitted, read_often=read_often)
