"""Unused: the files on the disk that nobody used for long, sent on by age and watermark.

Invariant: nothing is looked for while no file is old enough and the disk has room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.placement.surveys import AccessSurvey
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.placement.decisions import Decider
    from memfs.placement.queues import MoveQueues
    from memfs.placement.usage import TierUsage
    from memfs.policy.access_stats import AccessStats

FILES_A_STEP = 128

DRAIN_PAUSE_NS = 5_000_000_000
"""Between two looks for files that may leave a full disk, once one has found none: a third of the
CPU time of a daemon whose tiers are full for good went there. Files that come meanwhile wait."""


class UnusedFiles:
    """Looks at files on the disk.

    Args:
        engine: Knows when each was used last.
        access_stats: Has those in a queue that were used since the start.
        usage: How full the disk is.
        queues: Take no more moves than they have room for.
        decider: Looks at files and decides.
    """

    def __init__(
        self,
        engine: Engine,
        access_stats: AccessStats,
        usage: TierUsage,
        queues: MoveQueues,
        decider: Decider,
    ) -> None:
        self._access_stats = access_stats
        self._usage = usage
        self._queues = queues
        self._decider = decider
        self._survey = AccessSurvey(engine)
        self._draining = False
        self._drain_again_ns = 0
        self.hurried = False
        """The last step has found files to move: the next one need not wait."""

    async def send_on(self) -> None:
        """Look at the files that were not used for longest."""
        self.hurried = False
        usage, began = self._usage, self._usage.cold_draining and not self._draining
        self._draining = usage.cold_draining
        if began:
            self._survey.hurry()
            self._drain_again_ns = 0
        if not self._draining:
            limits = usage.limits
            age_ns = min(limits.pack_after_ns, limits.cold_to_glacier_ns)
            inos = await self._survey.next_unused(usage.now_ns - age_ns, FILES_A_STEP)
            if await self._decider.decide(await self._decider.observe(inos)):
                self._survey.note_found()
                self.hurried = True
            return
        inos = await self._survey.next_unused(usage.now_ns, FILES_A_STEP)
        visitors = [InodeNo(ino) for ino in self._access_stats.take_visitors(FILES_A_STEP)]
        # Files that nobody used since the start go first, the longest unused first of all.
        first = [*visitors, *(ino for ino in inos if ino not in self._access_stats.cold)]
        candidates = await self._decider.observe_ranked(dict.fromkeys(first), Tier.COLD)
        if await self._decider.decide(candidates):
            self._survey.note_found()
            self.hurried = True
        elif self._queues.has_room and usage.now_ns >= self._drain_again_ns:
            await self._drain()

    async def _drain(self) -> None:
        """Have the files leave the disk that its queue lets go."""
        inos = self._access_stats.next_to_leave_disk(self._usage.cold_excess_bytes, FILES_A_STEP)
        candidates = await self._decider.observe_ranked([InodeNo(ino) for ino in inos], Tier.COLD)
        moved = {move.ino for move in await self._decider.decide(candidates)}
        for candidate in candidates:
            if candidate.ino not in moved and candidate.local_bytes:
                self._access_stats.keep_local(candidate.ino, candidate.local_bytes)
        self.hurried = bool(moved)
        if candidates and not moved:
            self._drain_again_ns = self._usage.now_ns + DRAIN_PAUSE_NS
