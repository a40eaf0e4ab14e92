"""Upkeep: what keeps a state directory sound between moves: durability, garbage, the engine.

Invariant: a file is called durable only after its bytes, its name and what the engine knows of it
are on stable storage.
"""

from __future__ import annotations

import logging
import math
import os
import time
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError, StoreUnavailableError
from memfs.linux.files import syncfs
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.moves import Moves
    from memfs.types import Generation, InodeNo

log = logging.getLogger(__name__)

SETTLING_S = 5.0
"""A file is made durable so long after its last change: temporary files are gone by then, and the
kernel has begun to write the others (dirty_writeback_centisecs is 5 s by default)."""

FILES_A_ROUND = 4096
SYNC_EACH_MAX = 32
"""More files than this are made durable by one syncfs(2) and not by an fsync(2) each. Guess."""

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
        settling_s: See `SETTLING_S`.
    """

    def __init__(
        self, parts: MoveParts, moves: Moves, state_dir: Path, settling_s: float = SETTLING_S
    ) -> None:
        self._parts = parts
        self._moves = moves
        self._state_dir = state_dir
        self._settling_ns = int(settling_s * 1e9)
        self._unsyncable: set[tuple[InodeNo, Generation]] = set()
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
            freed_bytes = await self._moves.compact(batch)
        except (MemfsError, OSError) as error:
            log.info("%s is not compacted: %s", batch.key, error)
            if not isinstance(error, StoreUnavailableError):
                self._uncompactable.add(batch.key)
            self._compact_again_s = trio.current_time() + COMPACT_PAUSE_S
            return 0
        log.info("%s: compacted, %d bytes of the store are free", batch.key, freed_bytes)
        return 1

    async def _make_durable(self) -> int:
        engine = self._parts.engine
        before_ns = time.time_ns() - self._settling_ns
        inodes = [
            inode
            for inode in await engine.list_not_durable(FILES_A_ROUND)
            if inode.ctime_ns <= before_ns and (inode.ino, inode.generation) not in self._unsyncable
        ]
        if not inodes:
            return 0
        whole = len(inodes) > SYNC_EACH_MAX
        synced = await trio.to_thread.run_sync(
            self._sync_whole if whole else self._sync_each,
            inodes,
            limiter=self._parts.prompt_threads,
        )
        await trio.to_thread.run_sync(self._parts.syncer.sync, limiter=self._parts.prompt_threads)
        await engine.mark_durable([(inode.ino, inode.generation) for inode in synced])
        engine.commit_nowait()
        return len(synced)

    def _sync_whole(self, inodes: Sequence[Inode]) -> Sequence[Inode]:
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
        return inodes

    def _sync_each(self, inodes: Sequence[Inode]) -> Sequence[Inode]:
        raw_store = self._parts.raw_store
        synced = []
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
                # A later fsync would report success for pages that are lost (fsync(2), NOTES).
                self._unsyncable.add((inode.ino, inode.generation))
                self._parts.syncer.note_failure(inode.raw, error)
                log.warning("inode %d cannot be made durable: %s", inode.ino, error)
            else:
                synced.append(inode)
        return synced
