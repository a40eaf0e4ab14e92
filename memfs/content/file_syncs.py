"""File syncs: files on stable storage for programs, commands and the background.

Invariant: a file is called durable only after its bytes, its name and what the engine knows of it
are on stable storage; one that the disk has refused is not called so before it is written anew.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
from typing import TYPE_CHECKING

import trio

from memfs.content.opentable import SyncedFile
from memfs.content.quick_syncs import QuickSyncs, Unsynced
from memfs.content.syncer import Syncer
from memfs.errors import MemfsError, ObjectMissingError, StaleInodeError, StoreError
from memfs.metadata.records import InodeFlags
from memfs.types import RawId
from memfs.waiting import call_in_thread, leave

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from memfs.content.opentable import OpenTable
    from memfs.content.sealing import Sealer
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.stores.raw import RawStore
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

REFUSED_SETTING = "syncs.refused"
"""Holds which raw files the disk has refused, each as 8 bytes: its number, and as the lowest bit
whether a program has heard of it."""

REFUSED_KEPT_MAX = 8000
"""Files in the setting, which may have 64 KiB; the next mount does not know of more."""

THREADS_MAX = 16
"""Syncs that wait for the disk at a time; more would only queue in the disk. Guess."""


class FileSyncs:
    """All syncs of files of one mount: by programs, by commands and in the background.

    Those that a program waits for are made by the event loop where they are soon over and nobody
    else waits (`QuickSyncs`), else by one turn of a thread.

    Args:
        engine: Is told what is durable.
        raw_store: Has the bytes.
        open_table: Remembers what an open file's sync has failed of.
        sealer: Is told what an unsealed file was like.
        quick: Learns how long syncs take; None: from nothing.
    """

    def __init__(
        self,
        engine: Engine,
        raw_store: RawStore,
        open_table: OpenTable,
        sealer: Sealer,
        quick: QuickSyncs | None = None,
    ) -> None:
        self._engine = engine
        self._raw_store = raw_store
        self._open_table = open_table
        self._sealer = sealer
        self.syncer = Syncer(engine, raw_store)
        """Makes the system calls."""
        self._quick = quick or QuickSyncs()
        self._threads = trio.CapacityLimiter(THREADS_MAX)
        self._saved_change_count = 0

    # --- requests --------------------------------------------------------------------------------
    def find_bytes(self, inode: Inode) -> SyncedFile | None:
        """Return the raw file of an inode if nothing but its bytes is to be synced, else None.

        So it is for what a database has open: its name was synced before, and so was all that the
        engine has committed since. That is all that was answered before the request which asks.
        """
        synced = self._open_table.kept(inode.ino)
        if synced is None or synced.raw != inode.raw or not self._engine.synced:
            return None
        syncer = self.syncer
        return synced if syncer.idle and not syncer.has_failures else None

    async def sync_bytes(
        self, ino: InodeNo, synced: SyncedFile, *, is_alone: Callable[[], bool]
    ) -> None:
        """Do an fdatasync(2) of what `find_bytes` has found.

        Args:
            is_alone: Returns whether nobody else waits for the event loop.

        Raises:
            OSError: The disk refuses the bytes.
        """
        fd = synced.fd
        sync = functools.partial(self.syncer.sync_bytes, synced.raw, fd, data_only=True)
        try:
            unsynced = Unsynced(ino, os.fstat(fd).st_size, fd)
            await self._wait(unsynced, sync, is_alone, answers=True)
        except OSError as error:
            self._open_table.fail_syncs(ino, error.errno or errno.EIO)
            raise

    async def sync_for_program(
        self,
        inode: Inode,
        *,
        data_only: bool,
        is_alone: Callable[[], bool],
    ) -> None:
        """Do an fsync(2); an error that any sync of the file met is reported until it is closed.

        The error of the kernel's own writeback reaches the first descriptor that is fsynced after
        it (errseq_t, in the kernel's Documentation/core-api), which is the one that is opened here.

        Args:
            inode: The file; what the engine knows of it is committed.
            data_only: As fdatasync(2).
            is_alone: Returns whether nobody else waits for the event loop.

        Raises:
            OSError: The disk refuses the bytes, or has.
            MemfsError: Names or the engine cannot be made durable.
        """
        ino, raw = inode.ino, inode.raw
        if code := self.syncer.take_failure(raw):
            self._open_table.fail_syncs(ino, code)
        if code := self._open_table.sync_errno(ino):
            raise OSError(code, os.strerror(code))
        if not raw:
            await leave()
            await self.sync()
            return
        status = await self._sync_raw(inode, data_only, is_alone)
        # fdatasync leaves out times, by which a raw file is known to be the one that was sealed.
        if data_only or self.syncer.refusal(raw) is not None:
            return
        if inode.flags & InodeFlags.UNSEALED:
            self._sealer.note_synced(inode, status)
        elif not inode.flags & InodeFlags.DURABLE:
            await self._engine.mark_durable([(ino, inode.generation)])

    async def _sync_raw(
        self,
        inode: Inode,
        data_only: bool,
        is_alone: Callable[[], bool],
    ) -> os.stat_result:
        """Make a raw file, its name and its inode durable; returns its attributes from before."""
        synced = SyncedFile(inode.raw, self._raw_store.open(inode.raw, os.O_RDONLY))
        fd = synced.fd
        try:
            status = os.fstat(fd)
            sync = functools.partial(self.syncer.sync_file, inode.raw, fd, data_only=data_only)
            # What the engine is told of a file that is sealed precedes the reply.
            answers = data_only or bool(inode.flags & InodeFlags.UNSEALED)
            unsynced = Unsynced(inode.ino, status.st_size, fd)
            await self._wait(unsynced, sync, is_alone, answers=answers)
        except OSError as error:
            self._open_table.fail_syncs(inode.ino, error.errno or errno.EIO)
            raise
        if inode.flags & InodeFlags.UNSEALED:
            self._open_table.keep(inode.ino, synced)
        return status

    async def sync_name(self, inode: Inode, *, is_alone: Callable[[], bool]) -> None:
        """Make durable what leads to the bytes of a file, and not those."""

        def sync() -> None:
            self._raw_store.sync_directory(inode.raw)
            self.syncer.sync()

        await self._wait(Unsynced(inode.ino), sync, is_alone, answers=False)

    async def sync_names(self, ino: InodeNo, *, is_alone: Callable[[], bool]) -> None:
        """Do an fsync(2) of a directory: all names, and those of raw files.

        So no durable dentry lacks its file.
        """

        def sync() -> None:
            self._raw_store.sync_directories()
            self.syncer.sync()

        await self._wait(Unsynced(ino), sync, is_alone, answers=True)

    async def wait_for(
        self, unsynced: Unsynced, work: Callable[[], None], *, is_alone: Callable[[], bool]
    ) -> None:
        """Have a small change of the disk made and synced, before the request can go on.

        Checkpoint: not on the fast path. Cancel: it is made all the same.

        Args:
            unsynced: What it is about.
            work: Makes it; touches nothing that the event loop changes.
            is_alone: Returns whether nobody else waits for the event loop.
        """
        await self._wait(unsynced, work, is_alone, answers=False)

    async def sync_all(self) -> None:
        """Do a syncfs(2)."""
        await leave()
        await trio.to_thread.run_sync(self.syncer.sync_disk, limiter=self._threads)
        await self.sync()

    async def _wait(
        self,
        unsynced: Unsynced,
        work: Callable[[], None],
        is_alone: Callable[[], bool],
        *,
        answers: bool,
    ) -> None:
        """Wait for the disk: in a thread, or here where that is soon over and nobody else waits.

        Args:
            unsynced: What is to be synced.
            work: Does it.
            is_alone: Returns whether nobody else waits for the event loop.
            answers: The request is answered by it (`call_in_thread`).
        """
        quick = self._quick
        may_block = self.syncer.idle and not self._engine.sync_waits
        if may_block and quick.are_expected(unsynced) and is_alone():
            took_s = quick.time(work)
            if not is_alone():
                quick.note_waiting(took_s)
        else:
            time_work = functools.partial(quick.time, work)
            took_s = await call_in_thread(time_work, self._threads, answers=answers)
        quick.note(unsynced, took_s)

    # --- what the next mount has to know ----------------------------------------------------------
    async def load_refusals(self) -> None:
        """Take over what an earlier mount has met; before the first request."""
        value = await self._engine.get_setting(REFUSED_SETTING) or b""
        if value:
            # Written anew: some files may be gone.
            self._saved_change_count = -1
        for at in range(0, len(value), 8):
            number = int.from_bytes(value[at : at + 8], "little")
            raw, told = RawId(number >> 1), bool(number & 1)
            if self._raw_store.exists(raw):
                error = StoreError("an earlier mount could not bring it to the disk")
                self.syncer.note_failure(raw, error, told=told)

    async def save_refusals(self) -> None:
        """Keep for the next mount which files the disk has refused, if that has changed."""
        change_count = self.syncer.failure_change_count
        if change_count == self._saved_change_count:
            return
        refused = [*self.syncer.refused().items()][:REFUSED_KEPT_MAX]
        value = b"".join((int(raw) << 1 | told).to_bytes(8, "little") for raw, told in refused)
        async with self._engine.change():
            await self._engine.put_setting(REFUSED_SETTING, value or None)
        self._saved_change_count = change_count

    # --- commands and background -----------------------------------------------------------------
    async def sync(self) -> None:
        """Bring all changes that are committed to stable storage; see `Syncer.sync`.

        Checkpoint: always.

        Raises:
            MetadataError: The engine cannot be made durable.
        """
        await trio.to_thread.run_sync(self.syncer.sync, limiter=self._threads)

    def refusal(self, inode: Inode) -> str | None:
        """Return why a file is not durable whatever is done; None: nothing is known against it."""
        return self.syncer.refusal(inode.raw) if inode.raw else None

    async def make_durable(self, inodes: Sequence[Inode]) -> dict[InodeNo, str]:
        """Bring raw files, and then all names and changes that are committed, to stable storage.

        Checkpoint: always. Cancel: safe.

        Args:
            inodes: Files as they are now; those without a raw file have nothing to sync. One that
                is being written is brought there as it is, and durable if nothing follows.

        Returns:
            Why files could not be, by inode number.

        Raises:
            MetadataError: The engine cannot be made durable: nor are the files.
        """
        failures = {
            inode.ino: reason for inode in inodes if (reason := self.refusal(inode)) is not None
        }
        files = {inode.raw: inode for inode in inodes if inode.raw and inode.ino not in failures}
        statuses = self._unsealed_statuses(files)
        if files:
            refused = await trio.to_thread.run_sync(
                self.syncer.sync_files, [*files], limiter=self._threads
            )
            failures |= await self._note_refused(files, refused)
        await self.sync()
        # Others may have met a failure since: a program, or a rename.
        failures |= {
            inode.ino: reason
            for inode in files.values()
            if inode.ino not in failures and (reason := self.refusal(inode)) is not None
        }
        durable = [inode for inode in files.values() if inode.ino not in failures]
        async with self._engine.change():
            await self._engine.mark_durable(
                [
                    (inode.ino, inode.generation)
                    for inode in durable
                    if not inode.flags & InodeFlags.UNSEALED
                ]
            )
        for inode in durable:
            if (status := statuses.get(inode.raw)) is not None:
                self._sealer.note_synced(inode, status)
        await self.save_refusals()
        return failures

    def _unsealed_statuses(self, files: Mapping[RawId, Inode]) -> dict[RawId, os.stat_result]:
        """Return what unsealed raw files are like before they are synced."""
        statuses = {}
        for raw, inode in files.items():
            if inode.flags & InodeFlags.UNSEALED:
                with contextlib.suppress(ObjectMissingError):
                    statuses[raw] = self._raw_store.stat(raw)
        return statuses

    async def _note_refused(
        self, files: Mapping[RawId, Inode], refused: Mapping[RawId, MemfsError]
    ) -> dict[InodeNo, str]:
        """Note and return the failures of files that still are what they were."""
        failures = {}
        for raw, error in refused.items():
            ino = files[raw].ino
            try:
                now = await self._engine.get_inode(ino)
            except StaleInodeError:
                continue
            if isinstance(error, ObjectMissingError) and now.raw != raw:
                # Another form has taken its place meanwhile, durable before it did.
                continue
            self.syncer.note_failure(raw, error)
            failures[ino] = str(error)
            log.warning("inode %d cannot be made durable: %s", ino, error)
        return failures
