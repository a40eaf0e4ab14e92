"""From sealed to writable: what happens before the first byte of a file may change.

Invariant: the engine has durably noted (against the death of the daemon) that a file is unsealed
before its raw file changes; so after a crash no raw file is newer than its inode admits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from memfs.filesystem.names import Names
from memfs.metadata.records import Inode, InodeFlags
from memfs.moves.damage import replace_damaged
from memfs.moves.hydrating import hydrate
from memfs.moves.keeping import Keeper, keep_copy
from memfs.types import BLOCK_BYTES
from memfs.waiting import leave

if TYPE_CHECKING:
    from memfs.filesystem.operations import Caller
    from memfs.filesystem.shared import Parts
    from memfs.types import InodeNo


THREADS_MAX = 16
"""Requests that wait for the disk at a time; more would only queue in the disk. Guess."""

CUT_INLINE_BYTES_MAX = 16 << 20
"""Truncations that free up to so much are done by the event loop itself: 1-9 ms on ext4 of a
virtual disk, where 256 MiB took 17-67 ms and 2 GiB 0.5-0.6 s."""


class Writing(Names):
    """The steps that all changing requests share."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._threads = trio.CapacityLimiter(THREADS_MAX)

    async def _make_writable(self, caller: Caller, inode: Inode, *, truncate: bool) -> Inode:
        """Give a regular file a raw file and unseal it, committed.

        The caller holds the inode open (`OpenTable.begin`), so the raw file stays.

        Args:
            caller: Waits for it.
            inode: From `_sound`, or from `_begun` where the content is about to be dropped.
            truncate: The content is about to be dropped: nothing needs to be fetched. The raw file
                is not cut here, so that the caller can order that after the commit.
        """
        ino = inode.ino
        if self._open_table.is_referenced(ino):
            await self._part_from_readers(ino)
        if inode.flags & InodeFlags.UNSEALED:
            return inode
        while True:
            # Another opener may give it a raw file, or a hydration.
            async with self._open_table.gates.hold(ino):
                inode = await self._engine.get_inode(ino)
                if inode.flags & InodeFlags.UNSEALED:
                    return inode
                has_bytes = bool(inode.raw or truncate or inode.size == 0)
                shown = has_bytes and await self._is_shown(ino)
                # A snapshot takes the raw file over where nobody has it open and all of it goes.
                if has_bytes and (not shown or (truncate and self._open_table.is_alone(ino))):
                    inode = await self._unseal(inode, into_new=shown or not inode.raw)
                    if inode.flags & InodeFlags.UNSEALED:
                        break
                    # It was rewritten elsewhere meanwhile, or a snapshot was made.
                    continue
            if shown:
                await keep_copy(
                    self._move_parts, ino, Keeper(caller.is_alone, self._raw_pool.take_ready)
                )
            else:
                await leave()
                await hydrate(self._move_parts, ino)
        if not truncate:
            # It may believe for a day what it was told while nobody could write.
            self._kernel_cache.forget_attributes(ino)
        return inode

    async def _part_from_readers(self, ino: InodeNo) -> None:
        """A file is to be written whose readers have one open that is not memfs's own.

        Raises:
            ObjectChangedError: They keep it; its names lead to another inode, which can be written.
        """
        raise AssertionError(f"inode {ino}: nothing is passed through but raw files")

    async def _is_shown(self, ino: InodeNo) -> bool:
        """Tell whether a snapshot shows bytes of which there is no durable copy yet."""
        return ino in self._move_parts.keeping or await self._engine.needs_copy(ino)

    async def _unseal(self, inode: Inode, *, into_new: bool) -> Inode:
        """Unseal a sealed inode, committed, in its raw file or a new one; in its gate.

        Returns:
            The inode after it; as it is now if it was rewritten elsewhere, or if a snapshot needs a
            copy of the raw file.
        """
        if into_new:
            self._open_table.forget_raw(inode.ino)
            after = await self._unseal_into_new(inode)
        else:
            after = await self._engine.unseal(inode.ino, inode.raw, inode.generation)
        self._syncer.renew(after.raw)
        await self._commit_early()
        return after

    async def _unseal_into_new(self, inode: Inode) -> Inode:
        _, raw = self._engine.reserve_ids()
        os.close(self._raw_store.create(raw))
        try:
            after = await self._engine.unseal(inode.ino, raw, inode.generation)
        except BaseException:
            self._doubt_raw(inode.ino, raw)
            raise
        if after.raw == raw:
            self._made.append((inode.ino, raw))
            # What is locked in RAM is another file's pages from now on.
            self._residency.release(inode.ino, drop_pages=False)
        else:
            self._doubt_raw(inode.ino, raw)
        return after

    async def _begun(self, ino: InodeNo) -> Inode:
        """Return an inode that is being opened: nobody seals it or drops its raw file any more.

        One who had looked at the open files before has done it by now.
        """
        await self._open_table.gates.wait_free(ino)
        return await self._engine.get_inode(ino)

    async def _sound(self, ino: InodeNo, *, writing: bool = True) -> Inode:
        """Return an inode whose raw file was not changed while no daemon ran.

        Args:
            writing: False: one that this daemon has opened since, which it looked at then, is not
                looked at again. What is written to a file that was removed from the disk meanwhile
                would be lost; what is read from it is right, as the kernel has it open.

        Raises:
            CorruptDataError: It was, and there is no other form of its content.
        """
        inode = await self._begun(ino)
        if not writing and self._open_table.is_registered(ino, inode.raw):
            return inode
        if self._sealer.damage_of(inode) is None:
            return inode
        await leave()
        return await replace_damaged(self._move_parts, ino)

    async def _cut(self, inode: Inode, size: int, status: os.stat_result | None = None) -> None:
        """Give an unsealed file another size, in a thread where that frees much.

        Between `OpenTable.begin` and `end` as a writer, so that nobody seals it meanwhile.

        Args:
            inode: The file.
            size: Bytes.
            status: Its raw file as it was just now; None: it is asked.
        """
        path = self._raw_store.path(inode.raw)
        status = status or self._raw_store.stat(inode.raw)
        held_bytes = status.st_blocks * BLOCK_BYTES
        if held_bytes - size <= CUT_INLINE_BYTES_MAX:
            os.truncate(path, size)
            return
        await leave()
        await trio.to_thread.run_sync(os.truncate, path, size, limiter=self._threads)

    def _end_opening(self, ino: InodeNo, *, writing: bool) -> None:
        """An open or truncation is over; an orphan that only it kept may go."""
        self._open_table.end(ino, writing=writing)
        if writing and not self._open_table.has_writer(ino):
            self._sealer.add(ino)
        self._let_go_if_unheld(ino)
