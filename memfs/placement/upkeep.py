"""Upkeep: what keeps a state directory sound between moves: durability, garbage, sparse batches.

Invariant: one round is bounded work, and what cannot be done now does not stop the rest. One batch
is compacted at a time.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.addresses import store_of
from memfs.backoff import Backoff
from memfs.bounded import BoundedDict
from memfs.defects import as_failure
from memfs.errors import QuotaSpentError, StoreUnavailableError
from memfs.moves.batching import compact
from memfs.placement.quotas import cost_of_compaction

if TYPE_CHECKING:
    from memfs.metadata.records import Batch
    from memfs.moves.attempt import MoveParts
    from memfs.placement.context import Context
    from memfs.placement.quotas import Quotas

log = logging.getLogger(__name__)

SETTLING_NS = 5_000_000_000
"""A file is made durable so long after its last change: temporary files are gone by then, and the
kernel has begun to write the others (dirty_writeback_centisecs is 5 s by default)."""

FILES_A_ROUND = 4096

LONG_LIST_COUNT = 512
"""So many files that are not durable, some of them too young, are not listed again at once: to list
4096 takes the loop 20 ms, and rounds follow each other by 50 ms while there is something to do. A
fourth of the daemon's time for 10,000 small values went there."""

LONG_LIST_PAUSE_NS = 1_000_000_000

GARBAGE_A_ROUND = 1024

COMPACT_PAUSE_S = 30.0
"""Between two looks for sparse batches, a scan of one row a batch."""

SPARSE_PERCENT = 50
"""A batch with less than this share alive is compacted: at most twice the bytes are stored."""

BATCHES_LOOKED_AT = 64

UNCOMPACTABLE_MAX = 4096
"""Batches remembered that cannot be compacted; of more, the oldest are tried again."""


class Upkeep:
    """The work of the background that is no move."""

    def __init__(self, context: Context) -> None:
        self._clock = context.clock
        self._parts = context.parts
        self._garbage = context.garbage
        self._recovery = context.recovery
        self.compaction = Compaction(context.parts, context.quotas)
        self._compact_again_s = -math.inf
        self._list_again_ns = 0

    async def tidy(self) -> int:
        """Do one bounded round of what no store can hold up.

        Returns:
            How much was done, 0 if nothing was left to do.
        """
        # On a full disk nothing else can be done before this has made room.
        done_count = await self._garbage.collect_local(GARBAGE_A_ROUND)
        done_count += await self._make_durable()
        if not self._recovery.done:
            done_count += 1 + await self._recovery.look_at_slice()
        self._parts.engine.maintain()
        # Names that nobody fsyncs are lost with power for a round at most, as with the journal
        # of a local file system; it costs nothing where all is on stable storage.
        await self._parts.file_syncs.sync()
        return done_count

    async def tidy_store(self) -> int:
        """Remove objects that nothing refers to, and compact a sparse batch; returns as `tidy`."""
        return await self._garbage.collect(GARBAGE_A_ROUND) + await self._compact()

    async def _compact(self) -> int:
        """Compact a sparse batch; returns 1 if one was."""
        if self._parts.remote is None or trio.current_time() < self._compact_again_s:
            return 0
        compacted = await self.compaction.compact_sparsest()
        if compacted is not None and (compacted.failure is None or compacted.store_failed):
            # After a store that fails, those of another one are looked at.
            return 1
        wait_s = compacted.wait_s if compacted is not None else 0.0
        pause_s = max(COMPACT_PAUSE_S, min(wait_s, self._parts.config.policy.retry_s_max))
        self._compact_again_s = trio.current_time() + pause_s
        return 0

    async def _make_durable(self) -> int:
        now_ns = self._clock()
        if self._list_again_ns - LONG_LIST_PAUSE_NS <= now_ns < self._list_again_ns:
            return 0
        before_ns = now_ns - SETTLING_NS
        listed = await self._parts.engine.list_not_durable(FILES_A_ROUND)
        inodes = [
            inode
            for inode in listed
            if inode.ctime_ns <= before_ns and self._parts.file_syncs.refusal(inode) is None
        ]
        if len(inodes) < len(listed) >= LONG_LIST_COUNT:
            self._list_again_ns = now_ns + LONG_LIST_PAUSE_NS
        if not inodes:
            return 0
        failures = await self._parts.file_syncs.make_durable(inodes)
        return len(inodes) - len(failures)


class Compacted(NamedTuple):
    """What came of one batch."""

    key: str
    freed_bytes: int
    failure: str | None = None
    """Why it is as it was; None: it was compacted."""
    wait_s: float = 0.0
    """Until a quota has room for it."""
    store_failed: bool = False
    """Its store did not answer, and is left alone for a while."""


class Compaction:
    """Compacts the batches of one mount."""

    def __init__(self, parts: MoveParts, quotas: Quotas) -> None:
        self._parts = parts
        self._quotas = quotas
        self._lock = trio.Lock()
        self._uncompactable: BoundedDict[str, None] = BoundedDict(UNCOMPACTABLE_MAX)
        """Batches that hold a damaged or archived part; looked at again by the next daemon."""
        policy = parts.config.policy
        self._backoffs = {
            name: Backoff(policy.retry_s_min, policy.retry_s_max) for name in parts.store_names
        }

    async def list_sparse(self) -> list[Batch]:
        """Return the first of the batches that are worth it, the sparsest first."""
        due = [name for name, backoff in self._backoffs.items() if not backoff.wait_s]
        # Those that cannot be compacted must not hide the others.
        limit = BATCHES_LOOKED_AT + len(self._uncompactable)
        batches = await self._parts.engine.list_sparse_batches(SPARSE_PERCENT, limit, due)
        return [batch for batch in batches if batch.key not in self._uncompactable]

    async def compact_sparsest(self) -> Compacted | None:
        """Copy what is alive of the sparsest batch into a new object; None if all are dense."""
        async with self._lock:
            batch = next(iter(await self.list_sparse()), None)
            if batch is None:
                return None
            try:
                cost = cost_of_compaction(batch.live_bytes, batch.live_count)
                with self._quotas.reserved(cost):
                    freed_bytes = await compact(self._parts, batch)
            except QuotaSpentError as error:
                log.info("%s is not compacted yet: %s", batch.key, error)
                return Compacted(batch.key, 0, str(error), error.wait_s)
            except Exception as error:
                reason = as_failure(error, f"the compaction of {batch.key}")
                log.info("%s is not compacted: %s", batch.key, reason)
                if isinstance(error, StoreUnavailableError):
                    self._backoffs[store_of(batch.key)].fail()
                    return Compacted(batch.key, 0, str(reason), store_failed=True)
                self._uncompactable[batch.key] = None
                return Compacted(batch.key, 0, str(reason))
            self._backoffs[store_of(batch.key)].reset()
            log.info("%s: compacted, %d bytes of the store are free", batch.key, freed_bytes)
            return Compacted(batch.key, freed_bytes)
