"""Pending: files whose moves wait for their time, and files that readers want again and again.

Invariant: what failed for its readers is tried again ever more rarely, however often they ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.bounded import BoundedDict
from memfs.policy import rules
from memfs.policy.view import Goal, Move
from memfs.types import Tier

if TYPE_CHECKING:
    from memfs.content.activity import Activity
    from memfs.metadata.engine import Local
    from memfs.metadata.records import PendingMove
    from memfs.placement.decisions import Decider
    from memfs.placement.observation import Observer
    from memfs.placement.placer import Placer
    from memfs.placement.queues import MoveQueues
    from memfs.placement.usage import TierUsage
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.view import Candidate
    from memfs.types import InodeNo

DUE_A_STEP = 64

FAILED_READS_MAX = 1024
"""Files remembered that could not be fetched for their readers; some 200 kB."""


class PendingFiles:
    """Looks at files whose time has come.

    Args:
        engine: Has what is pending.
        activity: Knows what readers want.
        usage: The time of this round.
        queues: Take moves that readers want.
        observer: Looks at files.
        decider: Decides.
        access_stats: Knows which files are worth a raw form.
        placer: Knows what is being restored, and whether the store is worth asking.
    """

    def __init__(
        self,
        engine: Local,
        activity: Activity,
        usage: TierUsage,
        queues: MoveQueues,
        observer: Observer,
        decider: Decider,
        access_stats: AccessStats,
        placer: Placer,
    ) -> None:
        self._engine = engine
        self._activity = activity
        self._usage = usage
        self._queues = queues
        self._observer = observer
        self._decider = decider
        self._access_stats = access_stats
        self._placer = placer
        self._failed_reads: BoundedDict[InodeNo, PendingMove] = BoundedDict(FAILED_READS_MAX)

    async def take_wanted(self) -> None:
        """Hydrate files that programs were refused, and those of which they read much."""
        for ino in self._activity.take_archived():
            if await self._find_unraw(ino) is not None:
                self._put_read(ino, "a program wanted it while it was archived")
        for ino in self._activity.take_wanted():
            candidate = await self._find_unraw(ino)
            if candidate is None or not self._access_stats.is_worth_raw(ino, candidate.ram_bytes):
                continue
            if (failed := self._failed_reads.pop(ino, None)) is not None:
                # So that the pause after another failure is twice as long.
                async with self._engine.change():
                    await self._engine.set_pending(failed)
            self._put_read(ino, "so much of it is read that a local copy is cheaper")

    async def retry_due(self) -> None:
        """Look again at files whose time has come; those that are wanted elsewhere no more go."""
        for pending in await self._engine.list_pending(self._usage.now_ns, DUE_A_STEP):
            if pending.ino in self._queues:
                continue
            if (
                pending.wanted == Tier.GLACIER
                and not self._placer.store_ready
                and await self._needs_store(pending.ino)
            ):
                await self._placer.wait_for_store(pending.ino, pending.wanted)
                continue
            await self._decide(pending)

    async def _needs_store(self, ino: InodeNo) -> bool:
        candidate = await self._observer.observe(ino, self._usage.now_ns)
        return candidate is not None and not candidate.remote

    async def _find_unraw(self, ino: InodeNo) -> Candidate | None:
        """Return a file that has no raw form and waits for none."""
        candidate = await self._observer.observe(ino, self._usage.now_ns)
        return None if candidate is None or candidate.raw or candidate.waiting else candidate

    async def _decide(self, pending: PendingMove) -> None:
        ino = pending.ino
        # As it is: what a queue has let go before leaves by the same watermark now.
        candidate = await self._observer.observe(ino, self._usage.now_ns)
        if candidate is not None and await self._decider.decide([candidate]):
            return
        if ino in self._placer.restoring and self._queues.has_room:
            self._put_read(
                ino, "a program wanted it while it was archived, and it was restored since"
            )
            return
        if candidate is not None and not candidate.raw:
            self._note_failed_read(pending)
        async with self._engine.change():
            await self._engine.clear_pending(ino)

    def _put_read(self, ino: InodeNo, detail: str) -> None:
        if self._queues.has_room:
            self._queues.put(Move(ino, Goal.LOCAL, rules.READ, detail, 0))

    def _note_failed_read(self, pending: PendingMove) -> None:
        """Remember how often a file could not be fetched for its readers, who may ask again."""
        self._failed_reads[pending.ino] = pending
