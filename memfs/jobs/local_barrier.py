"""The local barrier: files, as they are now, are on stable storage before the caller goes on.

A file that is noted as done has its bytes, its names and all that the engine knows of it on stable
storage: neither SIGKILL of the daemon nor loss of power takes them away. What a program that has it
open writes later is not covered.

Invariant: nothing is noted as done before the last write and sync that its promise rests on.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from memfs.metadata.records import InodeFlags
from memfs.moves.file_work import FAILED
from memfs.moves.outcome import MoveOutcome

if TYPE_CHECKING:
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.file_work import WorkResults
    from memfs.placement.durability import Durability
    from memfs.types import InodeNo

OPEN = "open"
"""On stable storage as it was, but a program has it open for writing or mapped, and may go on."""


class LocalBarrier:
    """Brings files to stable local storage; a `FileWork`.

    All files of a call are synced at once, so that thousands of small ones cost one syncfs(2).

    Args:
        parts: The engine and the raw files among them.
        durability: Of the mount.
    """

    def __init__(self, parts: MoveParts, durability: Durability) -> None:
        self._parts = parts
        self._durability = durability
        self._files: list[Inode] = []

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """See `FileWork`."""
        await self._parts.sealer.seal(ino)
        inode = await self._parts.engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode) or not inode.raw:
            # Packed files were synced, and objects verified, before they were published.
            results.note(ino, MoveOutcome.UNNEEDED)
        elif inode.flags & (InodeFlags.UNSEALED | InodeFlags.DURABLE) == InodeFlags.DURABLE:
            results.note(ino, MoveOutcome.UNNEEDED)
        else:
            self._files.append(inode)

    async def finish(self, results: WorkResults) -> None:
        """See `FileWork`; names of all files and directories become durable even if no file did."""
        failures = await self._durability.make_durable(self._files)
        for inode in self._files:
            if reason := failures.get(inode.ino) or self._earlier_failure(inode):
                results.note(inode.ino, FAILED, reason)
            elif inode.flags & InodeFlags.UNSEALED:
                # It could not be sealed: a writer, or a mapping that outlives its handle.
                results.note(inode.ino, OPEN)
            else:
                results.note(inode.ino, MoveOutcome.DONE)

    def _earlier_failure(self, inode: Inode) -> str | None:
        """Return what an earlier sync has met: the kernel tells of a lost page only once."""
        code = self._parts.open_table.sync_errno(inode.ino)
        code = code or self._parts.syncer.failure_of(inode.raw)
        return f"an earlier sync of it failed: {os.strerror(code)}" if code else None
