"""Upkeep: what keeps a state directory sound between moves: durability, garbage, the engine.

Invariant: one round is bounded work, and what cannot be done now does not stop the rest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from memfs.placement.compaction import Compaction
from memfs.placement.durability import Durability

if TYPE_CHECKING:
    from memfs.placement.context import Context

SETTLING_NS = 5_000_000_000
"""A file is made durable so long after its last change: temporary files are gone by then, and the
kernel has begun to write the others (dirty_writeback_centisecs is 5 s by default)."""

FILES_A_ROUND = 4096

GARBAGE_A_ROUND = 1024

COMPACT_PAUSE_S = 30.0
"""Between two looks for sparse batches, a scan of one row a batch."""


class Upkeep:
    """The work of the background that is no move.

    Args:
        context: Of the mount.
    """

    def __init__(self, context: Context) -> None:
        self._clock = context.clock
        self._parts = context.parts
        self._garbage = context.garbage
        self._recovery = context.recovery
        self.durability = Durability(context.parts, context.state_dir)
        self.compaction = Compaction(context.parts, context.quotas)
        self._compact_again_s = -math.inf

    async def tidy(self) -> int:
        """Do one bounded round of what no store can hold up.

        Returns:
            How much was done, 0 if nothing was left to do.
        """
        done_count = await self._make_durable()
        done_count += await self._garbage.collect_local(GARBAGE_A_ROUND)
        if not self._recovery.done:
            done_count += 1 + await self._recovery.look_at_slice()
        self._parts.engine.maintain()
        # Names that nobody fsyncs are lost with power for a round at most, as with the journal
        # of a local file system; it costs nothing where all is on stable storage.
        await trio.to_thread.run_sync(self._parts.syncer.sync, limiter=self._parts.prompt_threads)
        return done_count

    async def tidy_store(self) -> int:
        """Remove objects that nothing refers to, and compact a sparse batch; returns as `tidy`."""
        return await self._garbage.collect(GARBAGE_A_ROUND) + await self._compact()

    async def _compact(self) -> int:
        """Compact a sparse batch; returns 1 if one was."""
        if self._parts.remote is None or trio.current_time() < self._compact_again_s:
            return 0
        compacted = await self.compaction.compact_sparsest()
        if compacted is not None and compacted.failure is None:
            return 1
        wait_s = compacted.wait_s if compacted is not None else 0.0
        pause_s = max(COMPACT_PAUSE_S, min(wait_s, self._parts.config.policy.retry_s_max))
        self._compact_again_s = trio.current_time() + pause_s
        return 0

    async def _make_durable(self) -> int:
        before_ns = self._clock() - SETTLING_NS
        inodes = [
            inode
            for inode in await self._parts.engine.list_not_durable(FILES_A_ROUND)
            if inode.ctime_ns <= before_ns and self.durability.refusal(inode) is None
        ]
        if not inodes:
            return 0
        failures = await self.durability.make_durable(inodes)
        return len(inodes) - len(failures)
