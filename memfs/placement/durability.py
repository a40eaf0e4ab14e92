"""Durability: raw files reach stable storage, many at once or each by itself.

Invariant: a file is called durable only after its bytes, its name and what the engine knows of it
are on stable storage; one whose bytes the disk has refused is never called so again, for a later
sync would report success for pages that are lost (fsync(2), NOTES).
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError, ObjectMissingError, StaleInodeError
from memfs.linux.files import syncfs
from memfs.metadata.records import InodeFlags
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import Generation, InodeNo

log = logging.getLogger(__name__)

SYNC_EACH_MAX = 32
"""More files than this are made durable by one syncfs(2) and not by an fsync(2) each. Guess."""


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
