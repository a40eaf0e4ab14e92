"""From sealed to writable: what happens before the first byte of a file may change.

Invariant: the engine has durably noted (against the death of the daemon) that a file is unsealed
before its raw file changes; so after a crash no raw file is newer than its inode admits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memfs.filesystem.names import Names
from memfs.metadata.records import Inode, InodeFlags

if TYPE_CHECKING:
    from memfs.filesystem.operations import Caller
    from memfs.types import InodeNo


class Writing(Names):
    """The step that all changing requests share."""

    async def _make_writable(self, caller: Caller, ino: InodeNo, *, truncate: bool) -> Inode:
        """Give a regular file a raw file and unseal it, committed.

        The caller holds the inode open (`OpenTable.begin`), so the raw file stays.

        Args:
            caller: Detached if the content has to be fetched first.
            ino: The inode.
            truncate: The content is about to be dropped: nothing needs to be fetched. The raw file
                is not cut here, so that the caller can order that after the commit.
        """
        inode = await self._engine.get_inode(ino)
        if inode.flags & InodeFlags.UNSEALED:
            return inode
        raw = inode.raw
        while not raw:
            if truncate or inode.size == 0:
                _, raw = self._engine.reserve_ids()
                os.close(self._raw_store.create(raw))
            else:
                await caller.detach()
                inode = await self._moves.hydrate(ino)
                raw = inode.raw
        if raw != inode.raw:
            # What is locked in RAM is another file's pages from now on.
            self._residency.release(ino, drop_pages=False)
        inode = await self._engine.unseal(ino, raw)
        self._commit_early()
        return inode

    def _end_opening(self, ino: InodeNo) -> None:
        """An open or truncation is over; an orphan that only it kept may go."""
        self._open_table.end(ino)
        self._let_go_if_unheld(ino)
