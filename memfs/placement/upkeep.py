"""Upkeep: what keeps a state directory sound between moves: durability, garbage, sparse batches.

Invariant: one round is bounded work, and what cannot be done now does not stop the rest. A file is
called durable only after its bytes, its name and what the engine knows of it are on stable storage;
one whose bytes the disk has refused is never called so again, for a later sync would report success
for pages that are lost (fsync(2), NOTES). One batch is compacted at a time.
"""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    MemfsError,
    ObjectMissingError,
    QuotaSpentError,
    StaleInodeError,
    StoreUnavailableError,
)
from memfs.linux.files import syncfs
from memfs.metadata.records import InodeFlags
from memfs.moves.batching import compact
from memfs.placement.quotas import cost_of_compaction
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.metadata.records import Batch, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.placement.context import Context
    from memfs.placement.quotas import Quotas
    from memfs.types import Generation, InodeNo

log = logging.getLogger(__name__)

SETTLING_NS = 5_000_000_000
"""A file is made durable so long after its last change: temporary files are gone by then, and the
kernel has begun to write the others (dirty_writeback_centisecs is 5 s by default)."""

FILES_A_ROUND = 4096

GARBAGE_A_ROUND = 1024

COMPACT_PAUSE_S = 30.0
"""Between two looks for sparse batches, a scan of one row a batch."""

SYNC_EACH_MAX = 32
"""More files than this are made durable by one syncfs(2) and not by an fsync(2) each. Guess."""

SPARSE_PERCENT = 50
"""A batch with less than this share alive is compacted: at most twice the bytes are stored."""

BATCHES_LOOKED_AT = 64


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


class Durability:
    """Makes files of one mount durable.

    Args:
        parts: The engine and the raw files among them.
        state_dir: On the file system that holds all local files.
    """

    def __init__(self, parts: MoveParts, state_dir: Path) -> None:
        self._parts = parts
        self._state_dir = state_dir
        self._unsyncable: dict[tuple[InodeNo, Generation], str] = {}

    def refusal(self, inode: Inode) -> str | None:
        """Return why the disk does not keep a file as it is now; None if nothing is known."""
        return self._unsyncable.get((inode.ino, inode.generation))

    async def make_durable(self, inodes: Sequence[Inode]) -> dict[InodeNo, str]:
        """Bring raw files, and then all names and changes that are committed, to stable storage.

        Checkpoint: always. Cancel: safe.

        Args:
            inodes: Files as they are now; those without a raw file have nothing to sync. One that
                is being written is brought there as it is, and durable if nothing follows.

        Returns:
            Why files could not be, by inode number.

        Raises:
            MetadataError: The engine cannot be made durable: none of the files is.
        """
        parts, engine = self._parts, self._parts.engine
        failures = {
            inode.ino: refusal for inode in inodes if (refusal := self.refusal(inode)) is not None
        }
        files = [inode for inode in inodes if inode.raw and inode.ino not in failures]
        unsealed = [
            (inode, status)
            for inode in files
            if (status := self._unsealed_status(inode)) is not None
        ]
        if files:
            whole = len(files) > SYNC_EACH_MAX
            refused = await trio.to_thread.run_sync(
                self._sync_whole if whole else self._sync_each, files, limiter=parts.prompt_threads
            )
            failures |= await self._note_refused(refused)
        await trio.to_thread.run_sync(parts.syncer.sync, limiter=parts.prompt_threads)
        async with engine.change():
            await engine.mark_durable(
                [
                    (inode.ino, inode.generation)
                    for inode in files
                    if inode.ino not in failures and not inode.flags & InodeFlags.UNSEALED
                ]
            )
        for inode, status in unsealed:
            if inode.ino not in failures:
                parts.sealer.note_synced(inode, status)
        return failures

    def _unsealed_status(self, inode: Inode) -> os.stat_result | None:
        """Return what an unsealed raw file is like before it is synced."""
        if not inode.flags & InodeFlags.UNSEALED:
            return None
        try:
            return self._parts.raw_store.stat(inode.raw)
        except ObjectMissingError:
            return None

    async def _note_refused(
        self, refused: Sequence[tuple[Inode, MemfsError]]
    ) -> dict[InodeNo, str]:
        """Return the reasons of files that could not be synced and still are what they were."""
        failures = {}
        for inode, error in refused:
            try:
                now = await self._parts.engine.get_inode(inode.ino)
            except StaleInodeError:
                continue
            if isinstance(error, ObjectMissingError) and now.raw != inode.raw:
                # Another form has taken its place meanwhile, durable before it did.
                continue
            self._unsyncable[inode.ino, inode.generation] = failures[inode.ino] = str(error)
            self._parts.syncer.note_failure(inode.raw, error)
            log.warning("inode %d cannot be made durable: %s", inode.ino, error)
        return failures

    def _sync_whole(self, inodes: Sequence[Inode]) -> Sequence[tuple[Inode, MemfsError]]:
        try:
            with disk_errors(str(self._state_dir)):
                fd = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    syncfs(fd)
                finally:
                    os.close(fd)
        except MemfsError as error:
            # Whose bytes are lost only an fsync of each file tells; another syncfs would succeed.
            log.warning("%s cannot be synced as a whole: %s", self._state_dir, error)
            return self._sync_each(inodes)
        return ()

    def _sync_each(self, inodes: Sequence[Inode]) -> Sequence[tuple[Inode, MemfsError]]:
        raw_store = self._parts.raw_store
        refused = []
        for inode in inodes:
            try:
                fd = raw_store.open(inode.raw, os.O_RDONLY)
                try:
                    with disk_errors(str(raw_store.path(inode.raw))):
                        os.fsync(fd)
                finally:
                    os.close(fd)
                raw_store.sync_directory(inode.raw)
            except MemfsError as error:
                refused.append((inode, error))
        return refused


class Compacted(NamedTuple):
    """What came of one batch."""

    key: str
    freed_bytes: int
    failure: str | None = None
    """Why it is as it was; None: it was compacted."""
    wait_s: float = 0.0
    """Until a quota has room for it."""


class Compaction:
    """Compacts the batches of one mount.

    Args:
        parts: The engine among them.
        quotas: The quotas.
    """

    def __init__(self, parts: MoveParts, quotas: Quotas) -> None:
        self._parts = parts
        self._quotas = quotas
        self._lock = trio.Lock()
        self._uncompactable: set[str] = set()
        """Batches that hold a damaged or archived part; looked at again by the next daemon."""

    async def list_sparse(self) -> list[Batch]:
        """Return the first of the batches that are worth it, the sparsest first."""
        batches = await self._parts.engine.list_sparse_batches(SPARSE_PERCENT, BATCHES_LOOKED_AT)
        return [batch for batch in batches if batch.key not in self._uncompactable]

    async def compact_sparsest(self) -> Compacted | None:
        """Copy what is alive of the sparsest batch into a new object; None if none is sparse."""
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
            except (MemfsError, OSError) as error:
                log.info("%s is not compacted: %s", batch.key, error)
                if not isinstance(error, StoreUnavailableError):
                    self._uncompactable.add(batch.key)
                return Compacted(batch.key, 0, str(error))
            log.info("%s: compacted, %d bytes of the store are free", batch.key, freed_bytes)
            return Compacted(batch.key, freed_bytes)
