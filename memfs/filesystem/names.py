"""Requests about names: lookup, creation, links, removal, rename, directory listings.

Invariant: every change is one engine call, so it happens whole or not at all; a raw file is made
before the inode that names it, and garbage-collected if the inode never came to be.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.bounded import BoundedDict
from memfs.content.activity import FREED_BYTES_MIN
from memfs.content.invalidations import Aspect
from memfs.defects import as_failure
from memfs.errors import InvalidValueError, MemfsError, NoXattrError, StaleInodeError
from memfs.filesystem.replies import Entry, Opened
from memfs.filesystem.shared import Shared
from memfs.metadata.records import DirectoryEntry, Inode, InodeFlags, NewInode
from memfs.namespace import acl
from memfs.traces.access_log import Operation
from memfs.types import NO_RAW, Tier
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.filesystem.operations import Caller
    from memfs.filesystem.shared import Parts
    from memfs.metadata.records import RenameResult
    from memfs.types import InodeNo, RawId

DEFAULT_ACLS_MAX = 4096
"""Directories whose default ACL, or its absence, is remembered: one look-up less a create."""

ORPHANS_RECOUNTED_MAX = 100_000
"""Looked at after changes were undone; what lies beyond is deleted at the next mount."""

RENAME_WHITEOUT = 4
"""linux/fs.h: leave a character device 0/0, the sign of overlayfs for a removed name."""

log = logging.getLogger(__name__)

GARBAGE_A_CALL = 256
"""Local files removed at a time until those of a request are gone."""

ROOM_FACTOR = 4
"""A disk that has so many times the size of a file free has room to replace it by another one while
its own former bytes are still there. Guess."""

READERS_S_MAX = 10.0
"""So long a removal waits for threads that read the file; they look after each MiB or so. Guess."""

REAP_COUNT_MAX = 256
"""Orphans deleted in one engine call; requests are served before the next."""


class Names(Shared):
    """The requests that read and change dentries."""

    opens_directories = False

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._default_acls: BoundedDict[InodeNo, bytes | None] = BoundedDict(DEFAULT_ACLS_MAX)
        acls = self._default_acls
        self.invalidations.register(Aspect.XATTRS, lambda ino: acls.pop(ino, None), acls.clear)

    async def lookup(
        self, parent: InodeNo, name: bytes, caller: Caller | None = None
    ) -> Entry | None:
        """LOOKUP; None if the name is missing."""
        self._activity.request_count += 1
        inode = await self._engine.find(parent, name)
        return None if inode is None else self._entry(inode)

    async def create(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        """CREATE."""
        self._activity.request_count += 1
        new = await self._new_file(caller, parent, mode)
        try:
            inode = await self._engine.create(parent, name, new)
            self._made.append((new.ino, new.raw))
            return self._opened(caller, inode, flags)
        except BaseException:
            await self._give_up(new)
            raise

    async def create_unnamed(
        self, caller: Caller, parent: InodeNo, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        """TMPFILE."""
        new = await self._new_file(caller, parent, mode)
        try:
            inode = await self._engine.create_orphan(new)
            self._made.append((new.ino, new.raw))
            self._note_orphan(inode)
            return self._opened(caller, inode, flags)
        except BaseException:
            await self._give_up(new)
            raise

    async def make_node(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, rdev: int
    ) -> Entry:
        """MKNOD."""
        self._activity.request_count += 1
        if stat.S_ISREG(mode):
            new = await self._new_file(caller, parent, mode)
            try:
                inode = await self._engine.create(parent, name, new)
            except BaseException:
                await self._give_up(new)
                raise
            self._made.append((new.ino, new.raw))
            self._sealer.add(inode.ino)
            return self._entry(inode)
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            raise InvalidValueError(f"mknod cannot make a file of type {stat.S_IFMT(mode):o}")
        new = await self._new_inode(caller, parent, mode, self._reserve_ino(), rdev=rdev)
        return self._entry(await self._engine.create(parent, name, new))

    async def make_directory(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int
    ) -> Entry:
        """MKDIR."""
        self._activity.request_count += 1
        mode = stat.S_IFDIR | (mode & 0o7777)
        new = await self._new_inode(caller, parent, mode, self._reserve_ino())
        return self._entry(await self._engine.create(parent, name, new))

    async def make_symlink(
        self, caller: Caller, parent: InodeNo, name: bytes, target: bytes
    ) -> Entry:
        """SYMLINK."""
        self._activity.request_count += 1
        mode = stat.S_IFLNK | 0o777
        new = await self._new_inode(caller, parent, mode, self._reserve_ino(), target=target)
        return self._entry(await self._engine.create(parent, name, new))

    async def read_link(self, ino: InodeNo) -> bytes:
        """READLINK."""
        return await self._engine.read_link(ino)

    async def link(self, ino: InodeNo, parent: InodeNo, name: bytes) -> Entry:
        """LINK."""
        self._activity.request_count += 1
        inode = await self._engine.link(ino, parent, name, self._now_ns())
        self._orphans.pop(ino, None)
        self._note_names(inode)
        self._activity.changes.note(ino)
        return self._entry(inode)

    async def unlink(self, parent: InodeNo, name: bytes) -> None:
        """UNLINK."""
        self._activity.request_count += 1
        inode = await self._engine.unlink(parent, name, self._now_ns())
        self._note_orphan(inode)
        await self._log_end(inode)
        self._note_names(inode)
        self._activity.changes.note(inode.ino)

    async def give_back(self) -> None:
        """After UNLINK or RENAME: what it freed of a large file is free when this returns.

        Who removes to make room writes at once, and looks at the free space before. A file that is
        open stays, and goes with its last handle.
        """
        while self._large:
            ino, raw = self._large.pop()
            if ino not in self._orphans or self._open_table.is_open(ino):
                continue
            await self._commit_early()
            await leave()
            if ino not in self._orphans or self._open_table.is_open(ino):
                continue
            try:
                if not await self._reap_all([ino], spare_open=True):
                    continue
                if self._open_table.is_open(ino):
                    continue
                self._orphans.pop(ino, None)
                while self._raw_store.exists(raw):
                    if not await self._garbage.collect_local(GARBAGE_A_CALL):
                        break
                await self._wait_for_readers(ino, raw)
            except (MemfsError, OSError) as error:
                # The name is gone; the mover makes the room.
                log.info("inode %d: its space is given back later: %s", ino, error)

    async def _wait_for_readers(self, ino: InodeNo, raw: RawId) -> None:
        """Return when threads of the daemon have let go of a raw file that was removed."""
        await self._residency.wait_released()
        if not self._raw_store.is_read(raw):
            return
        waiting = partial(self._raw_store.wait_unread, raw, READERS_S_MAX)
        if not await trio.to_thread.run_sync(waiting, abandon_on_cancel=True):
            log.info("inode %d: its space is given back when it is not read any more", ino)

    async def _log_end(self, inode: Inode) -> None:
        """A name of an inode is gone: the trace is told if it was a file's last."""
        if self._access_log.active and not inode.nlink and stat.S_ISREG(inode.mode):
            await self._log(Operation.UNLINK, inode, self._live(inode).size)

    async def remove_directory(self, parent: InodeNo, name: bytes) -> None:
        """RMDIR."""
        self._activity.request_count += 1
        inode = await self._engine.rmdir(parent, name, self._now_ns())
        self._default_acls.pop(inode.ino, None)
        self._note_orphan(inode)

    async def rename(
        self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes, flags: int
    ) -> None:
        """RENAME, RENAME2."""
        self._activity.request_count += 1
        now_ns = self._now_ns()
        whiteout = None
        if flags & RENAME_WHITEOUT:
            # Root's, as only who may make device nodes can ask for it (renameat2(2)).
            whiteout = NewInode(self._reserve_ino(), stat.S_IFCHR, 0, 0, now_ns)
        async with self._engine.change(deferred=True):
            result = await self._engine.rename(
                parent, name, new_parent, new_name, flags, now_ns, whiteout
            )
            if result.replaced is not None:
                # Before the commit: the bytes of either, if they were exchanged, must not be later
                # than its new name.
                self._sync_first(result.moved)
                self._sync_first(result.replaced)
        if result.replaced is not None:
            self._note_orphan(result.replaced, promptly=not self._needs_no_room(result))
            await self._log_end(result.replaced)
            if parent == new_parent:
                self._note_names(result.replaced)
        if parent != new_parent:
            # Another directory may mean another inherited pin.
            self._activity.note_pin(result.moved.ino)
            if result.replaced is not None and result.replaced.nlink:
                self._activity.note_pin(result.replaced.ino)
        self._activity.note_renamed(result.moved)
        if result.replaced is not None:
            self._activity.note_renamed(result.replaced)

    def _needs_no_room(self, result: RenameResult) -> bool:
        """Tell whether a large file has taken the place of another, and the disk has room for more.

        Its bytes come to the disk before the other's go: to wait for that is to wait for all of
        them (1 GiB by `MemoryManager.store`: a third of the time, and of the processor time).
        """
        moved, replaced = result
        if replaced is None or replaced.nlink or not (moved.raw and replaced.raw):
            return False
        size = self._raw_bytes(moved.raw)
        try:
            return size >= FREED_BYTES_MIN and self._raw_store.free_bytes() >= ROOM_FACTOR * size
        except MemfsError:
            return False

    async def open_directory(self, caller: Caller, ino: InodeNo) -> None:
        """OPENDIR; the kernel knows of each change that is made here."""

    async def list_directory(
        self, ino: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """READDIR, READDIRPLUS."""
        entries = await self._engine.list_directory(ino, after_cookie, limit)
        if entries:
            self._clock.note_shown(max(entry.inode.ctime_ns for entry in entries))
            if self._untold:
                for entry in entries:
                    self._untold.pop(entry.inode.ino, None)
        return [
            entry._replace(inode=self._live(entry.inode))
            if entry.inode.flags & InodeFlags.UNSEALED or stat.S_ISDIR(entry.inode.mode)
            else entry
            for entry in entries
        ]

    async def get_parent(self, ino: InodeNo) -> InodeNo:
        """The directory of a directory."""
        return await self._engine.get_parent(ino)

    def forget(self, inos: Sequence[InodeNo]) -> None:
        """FORGET, BATCH_FORGET."""
        for ino in inos:
            orphan = self._orphans.get(ino)
            if orphan is not None:
                if self._open_table.is_open(ino):
                    self._orphans[ino] = orphan._replace(forgotten=True)
                else:
                    self._let_go(ino)

    def _forget_undone(self) -> None:
        super()._forget_undone()
        self._default_acls.clear()

    async def _recount_orphans(self) -> None:
        """Bring the orphans in step with the engine after changes were undone."""
        self._undone = False
        known = set(self._orphans)
        nameless = set(await self._engine.list_orphans(ORPHANS_RECOUNTED_MAX))
        for ino in known - nameless:
            self._orphans.pop(ino, None)
        for ino in nameless - self._orphans.keys() - set(self._reapable):
            with contextlib.suppress(StaleInodeError):
                self._note_orphan(await self._engine.get_inode(ino))

    async def _remove_unmade(self) -> None:
        """Remove the raw files whose inodes were undone."""
        while self._unmade:
            ino, raw = self._unmade[-1]
            try:
                used = (await self._engine.get_inode(ino)).raw == raw
            except StaleInodeError:
                used = False
            if not used:
                if not self._open_table.is_open(ino):
                    self._open_table.forget_raw(ino)
                self._raw_store.unlink(raw)
            self._unmade.remove((ino, raw))

    async def reap(self) -> None:
        """Delete the orphans that nobody holds any more, and commit. Checkpoint: a batch each."""
        if self._undone:
            await self._recount_orphans()
            await self._remove_unmade()
        for _ in range(0, len(self._reapable), REAP_COUNT_MAX):
            inos = self._reapable[:REAP_COUNT_MAX]
            await self._reap_all(inos)
            # Not before: what a full disk has undone is to come again.
            del self._reapable[: len(inos)]
            await trio.lowlevel.checkpoint()

    async def reap_left_over(self) -> None:
        """Delete all orphans: before the first request, and after the last."""
        self._orphans.clear()
        self._reapable.clear()
        while inos := await self._engine.list_orphans(REAP_COUNT_MAX):
            if not await self._reap_all(inos):
                return
            await trio.lowlevel.checkpoint()

    async def _reap_all(self, inos: Sequence[InodeNo], *, spare_open: bool = False) -> bool:
        """Delete orphans, committed; False if a defect keeps one: it stays until the next mount.

        Args:
            inos: Orphans; one that got a name again stays.
            spare_open: One that is open by now stays, too.
        """
        try:
            await self._reap(inos, spare_open=spare_open)
        except (MemfsError, OSError):
            raise
        except Exception as error:
            if len(inos) == 1:
                as_failure(error, f"inode {inos[0]}, which has no name any more")
                return False
            return all([await self._reap_all([ino], spare_open=spare_open) for ino in inos])
        return True

    async def _reap(self, inos: Sequence[InodeNo], *, spare_open: bool) -> None:
        gates = self._open_table.gates
        async with contextlib.AsyncExitStack() as entered:
            for ino in sorted(set(inos)):
                await entered.enter_async_context(gates.hold(ino))
            gone = [ino for ino in inos if not (spare_open and self._open_table.is_open(ino))]
            for ino in gone:
                await self._vanish(ino)
            async with self._engine.change():
                await self._engine.reap(gone)

    async def _vanish(self, ino: InodeNo) -> None:
        """Let go of all that is kept in memory for an inode that is about to be deleted."""
        try:
            inode = await self._engine.get_inode(ino)
        except StaleInodeError:
            return
        if inode.nlink:
            return
        self._atimes.pop(ino, None)
        self._untold.pop(ino, None)
        if stat.S_ISREG(inode.mode):
            self._sealer.discard(ino)
            self._open_table.forget_raw(ino)
            self._residency.release(ino, drop_pages=False)
            self._access_stats.forget(ino)

    def _sync_first(self, inode: Inode) -> None:
        """Let a file that took another's name get there only with its bytes."""
        if inode.raw and inode.nlink and not inode.flags & InodeFlags.DURABLE:
            self._syncer.add(inode.raw)

    def _note_names(self, inode: Inode) -> None:
        """A file got or lost one of several names: it may inherit another pin now."""
        if inode.nlink and stat.S_ISREG(inode.mode):
            self._activity.note_pin(inode.ino)

    async def _new_inode(
        self,
        caller: Caller,
        parent: InodeNo,
        mode: int,
        ino: InodeNo,
        *,
        rdev: int = 0,
        raw: RawId = NO_RAW,
        target: bytes = b"",
    ) -> NewInode:
        """Prepare an inode: owner, and permission bits as umask or ACL leave them."""
        directory = await self._engine.get_inode(parent)
        is_directory = stat.S_ISDIR(mode)
        gid = caller.gid
        if directory.mode & stat.S_ISGID:
            # inode(7), S_ISGID: group of the directory, and directories hand the bit on.
            gid = directory.gid
            if is_directory:
                mode |= stat.S_ISGID
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if not stat.S_ISLNK(mode):
            default = await self._default_acl(parent)
            if default is None:
                mode &= ~(caller.umask & 0o777)
            else:
                inherited = acl.inherit(default, mode, directory=is_directory)
                mode = inherited.mode
                pairs = (
                    (acl.ACCESS_XATTR, inherited.access),
                    (acl.DEFAULT_XATTR, inherited.default),
                )
                xattrs = tuple((name, value) for name, value in pairs if value is not None)
        return NewInode(ino, mode, caller.uid, gid, self._now_ns(), rdev, raw, target, xattrs)

    async def _new_file(self, caller: Caller, parent: InodeNo, mode: int) -> NewInode:
        """Prepare a regular file with its empty raw file, which is older than it."""
        ready = self._raw_pool.take()
        ino, raw, backing = ready
        try:
            new = await self._new_inode(
                caller, parent, stat.S_IFREG | (mode & 0o7777), ino, raw=raw
            )
        except BaseException:
            self._raw_pool.give_back(ready)
            raise
        self._open_table.adopt_backing(ino, raw, backing)
        self._note_without_capability(ino)
        return new

    def _reserve_ino(self) -> InodeNo:
        ino, _ = self._engine.reserve_ids()
        return ino

    async def _give_up(self, new: NewInode) -> None:
        """A file could not be made, or made but not opened: then it stays, closed and empty."""
        # A scope that is entered on the fast path may not be left in another task.
        await leave()
        with trio.CancelScope(shield=True):
            try:
                await self._engine.get_inode(new.ino)
            except StaleInodeError:
                self._open_table.forget_raw(new.ino)
                self._raw_store.unlink(new.raw)
            else:
                self._sealer.add(new.ino)

    def _opened(self, caller: Caller, inode: Inode, flags: int) -> tuple[Entry, Opened]:
        """Open a file that was just made; its attributes are those of now, it being empty."""
        opened = self._open_created(inode, flags)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        self._activity.programs.note_open(
            caller.pid, caller.uid, 0, self._now_ns(), writing=writing
        )
        if self._access_log.active:
            self._access_log.note(Operation.CREATE, inode.ino, 0, Tier.COLD)
        validity = self.validity
        return Entry(inode, validity.name_s(inode), validity.created_s()), opened

    def _open_created(self, inode: Inode, flags: int) -> Opened:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        mode, backing = self._open_table.choose(inode.ino, inode.raw)
        handle = self._open_table.add(inode.ino, mode, writable=writable)
        if not writable:
            self._sealer.add(inode.ino)
        return Opened(handle, mode, backing)

    async def _default_acl(self, directory: InodeNo) -> bytes | None:
        if not self._features.acl:
            return None
        try:
            return self._default_acls[directory]
        except KeyError:
            pass
        # Else what is stored meanwhile would be followed here by what was there before.
        async with self._open_table.gates.hold(directory):
            change_count = self.invalidations.count
            try:
                value: bytes | None = await self._engine.get_xattr(directory, acl.DEFAULT_XATTR)
            except NoXattrError:
                value = None
            if self.invalidations.count == change_count:
                self._default_acls[directory] = value
        return value
