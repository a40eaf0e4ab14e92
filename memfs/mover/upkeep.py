"""Upkeep: what keeps a state directory sound between moves: durability, garbage, the engine.

Invariant: one round is bounded work, and what cannot be done now does not stop the rest.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

import trio

from memfs.errors import BudgetSpentError, MemfsError, StoreUnavailableError
from memfs.mover.costs import cost_of_compaction
from memfs.mover.durability import Durability

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.mover.spending import Spending
    from memfs.moves.attempt import MoveParts
    from memfs.moves.moves import Moves

log = logging.getLogger(__name__)

SETTLING_S = 5.0
"""A file is made durable so long after its last change: temporary files are gone by then, and the
kernel has begun to write the others (dirty_writeback_centisecs is 5 s by default)."""

FILES_A_ROUND = 4096

GARBAGE_A_ROUND = 1024

SPARSE_PERCENT = 50
"""A batch with less than this share alive is compacted: at most twice the bytes are stored."""

BATCHES_LOOKED_AT = 64
COMPACT_PAUSE_S = 30.0
"""Between two looks for sparse batches, a scan of one row a batch."""


class Upkeep:
    """The work of the background that is no move.

    Args:
        parts: The engine and the stores among them.
        moves: Removes garbage.
        state_dir: On the file system that holds all local files.
        spending: The budgets.
        settling_s: See `SETTLING_S`.
    """

    def __init__(
        self,
        parts: MoveParts,
        moves: Moves,
        state_dir: Path,
        spending: Spending,
        settling_s: float = SETTLING_S,
    ) -> None:
        self._parts = parts
        self._moves = moves
        self._spending = spending
        self.durability = Durability(parts, state_dir)
        self._settling_ns = int(settling_s * 1e9)
        self._compact_again_s = -math.inf
        self._uncompactable: set[str] = set()
        """Batches that hold a damaged or archived part; looked at again by the next daemon."""

    async def step(self) -> int:
        """Do one bounded round; returns how much was done, 0 if nothing was left to do."""
        done_count = await self._make_durable()
        done_count += await self._moves.collect_garbage(GARBAGE_A_ROUND)
        if not self._moves.sweep_done:
            done_count += 1 + await self._moves.sweep_step()
        done_count += await self._compact()
        self._parts.engine.maintain()
        # Names that nobody fsyncs are lost with power for a round at most, as with the journal
        # of a local file system; it costs nothing where all is on stable storage.
        await trio.to_thread.run_sync(self._parts.syncer.sync, limiter=self._parts.prompt_threads)
        return done_count

    async def _compact(self) -> int:
        """Copy what is alive of a sparse batch into a new object; returns 1 if one was."""
        if self._parts.remote is None or trio.current_time() < self._compact_again_s:
            return 0
        batches = await self._parts.engine.list_sparse_batches(SPARSE_PERCENT, BATCHES_LOOKED_AT)
        batch = next((each for each in batches if each.key not in self._uncompactable), None)
        if batch is None:
            self._compact_again_s = trio.current_time() + COMPACT_PAUSE_S
            return 0
        try:
            with self._spending.reserved(cost_of_compaction(batch.live_bytes, batch.live_count)):
                freed_bytes = await self._moves.compact(batch)
        except BudgetSpentError as error:
            log.info("%s is not compacted yet: %s", batch.key, error)
            pause_s = min(error.wait_s, self._parts.config.policy.retry_s_max)
            self._compact_again_s = trio.current_time() + max(COMPACT_PAUSE_S, pause_s)
            return 0
        except (MemfsError, OSError) as error:
            log.info("%s is not compacted: %s", batch.key, error)
            if not isinstance(error, StoreUnavailableError):
                self._uncompactable.add(batch.key)
            self._compact_again_s = trio.current_time() + COMPACT_PAUSE_S
            return 0
        log.info("%s: compacted, %d bytes of the store are free", batch.key, freed_bytes)
        return 1

    async def _make_durable(self) -> int:
        before_ns = time.time_ns() - self._settling_ns
        inodes = [
            inode
            for inode in await self._parts.engine.list_not_durable(FILES_A_ROUND)
            if inode.ctime_ns <= before_ns and self.durability.refusal(inode) is None
        ]
        if not inodes:
            return 0
        failures = await self.durability.make_durable(inodes)
        return len(inodes) - len(failures)
