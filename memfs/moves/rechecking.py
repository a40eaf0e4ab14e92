"""Recheck: raw files compared with their inodes, once after the machine went down with a mount.

Invariant: until the engine says so on stable storage (`drained`, or this very boot), a raw file may
be newer than its inode: power loss takes the end of the journal, and with it perhaps the note that
a file was opened for writing, while its bytes are on the disk already.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from memfs.defects import as_failure
from memfs.errors import CorruptDataError, MemfsError, StaleInodeError
from memfs.linux.boot import boot_id
from memfs.linux.times import storable_ns
from memfs.metadata.records import InodeFlags
from memfs.moves.damage import record_damage
from memfs.stores.disk import disk_errors
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts

log = logging.getLogger(__name__)

CLEAN_SETTING = "recheck.clean"
"""Holds when all raw files of durable files were last known to be as the engine says, by the clock
of `RawStore.stamp`: at the start of the first mount after an orderly end. Missing: never."""

SETTING = "recheck.boot"
"""Holds the boot in which all raw files are as the engine says, or `DRAINED`."""

DRAINED = b"drained"
"""The last mount brought everything to stable storage before it ended."""

FETCHED = b"fetched"
"""The last mount read what another node wrote: raw files have the bytes that were fetched, and
times as they were then. `metadata.shared.promoting` writes it."""

FILES_A_SLICE = 1000
"""A stat(2) each, in a thread. Guess."""


class Recheck:
    """Finds the files whose writing the engine has forgotten, and adopts them as they are.

    Args:
        parts: The engine, the raw files and the sealer among them.
        boot: That of this run of the kernel; given by tests.
        files_a_slice: Inodes compared before the event loop is given back.
    """

    def __init__(
        self, parts: MoveParts, boot: bytes | None = None, files_a_slice: int = FILES_A_SLICE
    ) -> None:
        self._parts = parts
        self._files_a_slice = files_a_slice
        self._boot = boot or boot_id()
        self._after = InodeNo(0)
        self._adopted_count = 0
        self._doubted = False
        self.done = False
        """True when no raw file can be newer than its inode admits by more than an answer that was
        never given: SIGKILL of a daemon loses no note."""
        self.proven = False
        """True when every sealed raw file is as its inode says."""

    async def begin(self) -> None:
        """Find out whether there is anything to doubt. Once, before the first request."""
        engine = self._parts.engine
        known = await engine.get_setting(SETTING)
        if known is None and not await engine.list_files(InodeNo(0), 1):
            # A new state: its first mount may end before the first step.
            known = DRAINED
        if known == FETCHED:
            await self._fit_fetched()
            known = DRAINED
        if known == DRAINED:
            clean_ns = await trio.to_thread.run_sync(self._parts.raw_store.stamp)
            async with engine.change():
                await engine.put_setting(CLEAN_SETTING, str(clean_ns).encode())
                await engine.put_setting(SETTING, self._boot)
            # Before the first write: `drained` must not come back with power.
            await trio.to_thread.run_sync(engine.sync)
        self._parts.sealer.note_clean(int(await engine.get_setting(CLEAN_SETTING) or 0))
        self.proven = known == DRAINED
        self.done = known in (DRAINED, self._boot)

    async def _fit_fetched(self) -> None:
        """Give raw files the times that the node which wrote has set; drop what is not whole.

        Before anybody takes such a file for one that was written here.
        """
        engine, after = self._parts.engine, InodeNo(0)
        while inodes := await engine.list_files(after, self._files_a_slice):
            unfit = await trio.to_thread.run_sync(
                self._fit_slice, inodes, limiter=self._parts.prompt_threads
            )
            async with engine.change():
                for inode in unfit:
                    await engine.drop_raw(inode.ino, inode.generation)
            after = inodes[-1].ino

    def _fit_slice(self, inodes: Sequence[Inode]) -> list[Inode]:
        """Set times, durably; returns those whose raw files have another size, or are missing."""
        store, unfit = self._parts.raw_store, []
        for inode in inodes:
            if not inode.raw or inode.flags & InodeFlags.UNSEALED:
                continue
            try:
                fd = store.open(inode.raw)
            except MemfsError as error:
                log.warning("inode %d: %s", inode.ino, error)
                unfit.append(inode)
                continue
            with disk_errors(str(store.path(inode.raw))):
                try:
                    status = os.fstat(fd)
                    if status.st_size != inode.size:
                        unfit.append(inode)
                    elif storable_ns(status.st_mtime_ns) != inode.mtime_ns:
                        os.utime(fd, ns=(inode.atime_ns, inode.mtime_ns))
                        os.fsync(fd)
                finally:
                    os.close(fd)
        return unfit

    def trust(self) -> None:
        """Nobody writes here: raw files are as they were fetched. In place of `begin`."""
        self.proven = self.done = True

    async def compare_slice(self) -> int:
        """Compare one slice of the files; returns how many were adopted."""
        if self.proven:
            return 0
        engine = self._parts.engine
        inodes = await engine.list_files(self._after, self._files_a_slice)
        if not inodes:
            async with engine.change():
                await engine.put_setting(SETTING, self._boot)
            self.done = self.proven = True
            if self._adopted_count:
                log.info("%d files were written before power loss", self._adopted_count)
            return 0
        changed = await trio.to_thread.run_sync(
            self._find_changed, inodes, limiter=self._parts.prompt_threads
        )
        adopted_count = 0
        for ino in changed:
            try:
                # Anew: programs may have opened it meanwhile.
                inode = await engine.get_inode(ino)
                adopted_count += await self._parts.sealer.adopt_if_changed(inode)
            except StaleInodeError:
                continue
            except CorruptDataError as error:
                await record_damage(self._parts, ino, str(error))
            except (MemfsError, OSError):
                raise
            except Exception as error:
                # The files behind it must not wait for it for ever.
                as_failure(error, f"inode {ino} after an unclean end")
        self._after = inodes[-1].ino
        self._adopted_count += adopted_count
        return adopted_count

    async def note_drained(self) -> None:
        """Everything is on stable storage, and nothing will be written any more; not committed."""
        if self.proven and not self._doubted:
            await self._parts.engine.put_setting(SETTING, DRAINED)

    def doubt(self) -> None:
        """Changes of the engine were undone, and perhaps not those of raw files (their times)."""
        self._doubted = True

    def _find_changed(self, inodes: Sequence[Inode]) -> list[InodeNo]:
        return [inode.ino for inode in inodes if self._parts.sealer.is_changed(inode)]
