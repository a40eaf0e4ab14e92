"""Requests about bytes: open, read, write, fsync, fallocate, lseek, copy_file_range, release.

Invariant: with passthrough the kernel moves the bytes and neither `read` nor `write` is called;
without it, they do the same on the same raw file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import trio

from memfs.content.opening import OpenMode
from memfs.errors import (
    InvalidValueError,
    IsADirectoryInodeError,
    NoDataAtOffsetError,
    NoSpaceError,
    NotSupportedError,
    ObjectArchivedError,
)
from memfs.filesystem.attributes import AttributeRequests, without_suidgid
from memfs.filesystem.replies import Opened
from memfs.linux.files import FallocateMode, fallocate, read_cached, seek_span
from memfs.metadata.records import AttributeChanges, Inode
from memfs.moves.hydrating import hydrate
from memfs.traces.access_log import Operation
from memfs.waiting import leave

if TYPE_CHECKING:
    from memfs.content.opening import Handle
    from memfs.filesystem.operations import Caller
    from memfs.filesystem.replies import Entry
    from memfs.stores.source import LocalFile
    from memfs.types import InodeNo

INLINE_WRITE_BYTES_MAX = 128 << 10
"""Writes up to this size are copied into the page cache by the event loop itself; the way to a
thread and back costs as much as copying about 256 KiB. Guess from memory bandwidth."""

DIRECT_SHARE_MAX = 0.25
"""When so large a share of a file has been read from its frames, it is made raw in the background:
from there on, doing so costs less than what was read already. Guess."""

FOREIGN_SHARE_MAX = 1.0
"""The same of a file that only a source has: till then its bytes would come twice at a time, and
cost twice. Guess."""

COPY_BYTES_MAX = 64 << 20
"""Bytes of one copy_file_range; the kernel asks again for the rest (copy_file_range(2))."""

_BLOCK_BYTES = 512
"""The unit of `st_blocks` (inode(7))."""


class ContentRequests(AttributeRequests):
    """The requests that open files and touch their bytes."""

    async def open(
        self,
        caller: Caller,
        ino: InodeNo,
        flags: int,
        kill_suidgid: bool = False,
        node: InodeNo | None = None,
    ) -> Opened:
        """OPEN, by a node of the file; None: the one of its number."""
        node = ino if node is None else node
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable:
            await self._wait_for_room(ino)
        truncate = bool(flags & os.O_TRUNC)
        self._activity.request_count += 1
        changing = writable or truncate
        if changing:
            await self._engine.require_thawed(ino)
        first = not self._open_table.is_open(ino)
        self._open_table.begin(ino, writing=changing)
        reference: LocalFile | None = None
        try:
            # What is to be cut to nothing may be damaged.
            inode = await (self._begun(ino) if truncate else self._sound(ino, writing=writable))
            if not stat.S_ISREG(inode.mode):
                raise IsADirectoryInodeError(f"inode {ino} is not a regular file")
            if self._access_log.active and not truncate:
                await self._log(Operation.OPEN, inode, self._live(inode).size)
            if not writable:
                # Before the file is fetched, so that the next ones are on their way meanwhile.
                self._activity.note_open(ino, caller.uid, caller.pid, self._now_ns())
                self._traffic.note_open(await self._level_of(inode), inode.size)
            if changing:
                inode = await self._make_writable(caller, inode, truncate=truncate)
                if first:
                    self._syncer.renew(inode.raw)
                if kill_suidgid:
                    inode = await self._kill_suidgid(caller, inode)
                if truncate:
                    await self._cut(inode, 0)
            elif not inode.raw or self._open_table.is_referenced(ino):
                reference = await self._open_reference(inode)
                if reference is None and inode.size <= self._features.hydrate_bytes_max:
                    inode = await self._hydrate_for_reading(inode)
            time_ns = self._now_ns()
            self._activity.note_access(ino, time_ns)
            size = 0 if truncate else self._live(inode).size
            self._activity.programs.note_open(
                caller.pid, caller.uid, size, time_ns, writing=writable
            )
            if not writable and not flags & os.O_NOATIME:
                self._touch_atime(inode, time_ns)
            if inode.raw:
                # It stays: nobody drops it, or gives the inode another one, while that is open.
                mode, backing, handle = self._add_handle(inode, node, writable=writable)
            else:
                async with self._open_table.gates.hold(ino):
                    # Others may have made one meanwhile.
                    now = await self._engine.get_inode(ino)
                    if now.generation != inode.generation:
                        reference = None
                    inode = now
                    mode, backing, handle = self._add_handle(
                        inode, node, writable=writable, reference=reference
                    )
            if writable and flags & os.O_DSYNC:
                await self._sync_before_writes(caller, inode, handle)
        finally:
            self._end_opening(ino, writing=changing)
        return Opened(handle, mode, backing)

    def _add_handle(
        self,
        inode: Inode,
        node: InodeNo,
        *,
        writable: bool,
        reference: LocalFile | None = None,
    ) -> tuple[OpenMode, int, Handle]:
        fd = -1 if reference is None else reference.fd
        mode, backing = self._open_table.choose(node, inode.raw, fd)
        return mode, backing, self._open_table.add(node, mode, writable=writable)

    async def _open_reference(self, _inode: Inode) -> LocalFile | None:
        """Open the file that is not memfs's own and has the bytes of a sealed inode, if one has."""
        return None

    async def create(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        """CREATE."""
        await self._wait_for_room(parent)
        entry, opened = await super().create(caller, parent, name, mode, flags)
        if flags & os.O_ACCMODE != os.O_RDONLY and flags & os.O_DSYNC:
            await self._sync_before_writes(caller, entry.inode, opened.handle)
        return entry, opened

    def release(self, ino: InodeNo, handle: Handle) -> None:
        """RELEASE."""
        steady = self._open_table.is_steady(ino)
        if self._open_table.remove(ino, handle):
            if steady:
                # What a mapping wrote since then is to show now that it is closed.
                self._kernel_cache.forget_attributes(ino)
            self._sealer.add(ino)
        self._let_go_if_unheld(ino)

    async def read(self, ino: InodeNo, handle: Handle, offset: int, size: int) -> bytes | bytearray:
        """READ."""
        inode = await self._engine.get_inode(ino)
        self._activity.served_bytes += size
        if not inode.raw:
            if not stat.S_ISREG(inode.mode):
                raise IsADirectoryInodeError(f"inode {ino} is not a regular file")
            share = DIRECT_SHARE_MAX if inode.blob else FOREIGN_SHARE_MAX
            if self._open_table.count_direct_read(ino, size) > inode.size * share:
                self._activity.note_wanted(ino)
            if self._access_log.active:
                await self._log(Operation.READ, inode, min(size, max(0, inode.size - offset)))
            await leave()
            try:
                return await self._form_reader.read(inode, offset, size)
            except ObjectArchivedError:
                # Fetched by the mover once it is restored, even if nobody asks again by then.
                self._activity.note_archived(ino)
                raise
        fd = self._open_table.read_fd(ino, inode.raw)
        cached = read_cached(fd, offset, size)
        if cached is not None:
            return cached
        # Not all of it is in the page cache, or the file ends here: a thread may wait for the disk.
        await leave()
        return await trio.to_thread.run_sync(os.pread, fd, size, offset, limiter=self._threads)

    async def write(
        self,
        caller: Caller,
        ino: InodeNo,
        handle: Handle,
        offset: int,
        data: memoryview,
        kill_suidgid: bool = False,
    ) -> int:
        """WRITE."""
        await self._wait_for_room(ino)
        inode = await self._engine.get_inode(ino)
        self._activity.served_bytes += len(data)
        if kill_suidgid:
            inode = await self._kill_suidgid(caller, inode)
        fd = self._open_table.write_fd(ino, inode.raw)
        if len(data) <= INLINE_WRITE_BYTES_MAX:
            return os.pwrite(fd, data, offset)
        await leave()
        return await trio.to_thread.run_sync(os.pwrite, fd, data, offset, limiter=self._threads)

    async def _wait_for_room(self, ino: InodeNo) -> None:
        """Hold a program back that is to write, while the disk is nearly full and room is made."""
        if self._room is not None and self._room.is_tight:
            await self._room.wait(ino)

    async def fsync(self, caller: Caller, ino: InodeNo, data_only: bool) -> None:
        """FSYNC."""
        inode = await self._engine.get_inode(ino)
        if data_only and (synced := self._file_syncs.find_bytes(inode)) is not None:
            await self._file_syncs.sync_bytes(ino, synced, is_alone=caller.is_alone)
            return
        await self._commit_early()
        await self._file_syncs.sync_for_program(
            inode, data_only=data_only, is_alone=caller.is_alone
        )

    async def _sync_before_writes(self, caller: Caller, inode: Inode, handle: Handle) -> None:
        """Make durable what leads to the bytes of a file that is opened with O_SYNC or O_DSYNC.

        Passed-through writes then sync the raw file, and nobody here hears of them (open(2)).
        """
        try:
            await self._commit_early()
            await self._file_syncs.sync_name(inode, is_alone=caller.is_alone)
        except BaseException:
            self.release(inode.ino, handle)
            raise

    async def fsync_directory(self, caller: Caller, ino: InodeNo) -> None:
        """FSYNCDIR."""
        await self._commit_early()
        await self._file_syncs.sync_names(ino, is_alone=caller.is_alone)

    async def sync(self) -> None:
        """SYNCFS."""
        await self._commit_early()
        await self._file_syncs.sync_all()

    async def allocate(self, ino: InodeNo, mode: int, offset: int, length: int) -> None:
        """FALLOCATE."""
        await self._wait_for_room(ino)
        inode = await self._engine.get_inode(ino)
        if not inode.raw:
            raise OSError(errno.EBADF, f"inode {ino} is not open for writing")
        fd = self._raw_store.open(inode.raw, os.O_RDWR)
        try:
            await leave()
            await trio.to_thread.run_sync(
                _allocate, fd, mode, offset, length, limiter=self._threads
            )
        finally:
            os.close(fd)

    async def seek(self, caller: Caller, ino: InodeNo, offset: int, whence: int) -> int:
        """LSEEK."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise InvalidValueError(
                f"lseek with whence {whence} is not for a file system to answer"
            )
        inode = await self._engine.get_inode(ino)
        if inode.raw:
            fd = self._raw_store.open(inode.raw, os.O_RDONLY)
            try:
                return seek_span(fd, offset, whence)
            finally:
                os.close(fd)
        if not 0 <= offset < inode.size:
            raise NoDataAtOffsetError(f"offset {offset} is not below the end ({inode.size})")
        return offset if whence == os.SEEK_DATA else inode.size

    async def copy_range(
        self,
        source: InodeNo,
        source_offset: int,
        target: InodeNo,
        target_offset: int,
        size: int,
    ) -> int:
        """COPY_FILE_RANGE."""
        source_inode = await self._engine.get_inode(source)
        target_inode = await self._engine.get_inode(target)
        if not source_inode.raw or not target_inode.raw:
            # EOPNOTSUPP has the kernel copy by reading and writing (fs/fuse/file.c).
            raise NotSupportedError("copy_file_range from a file that is not on the local disk")
        source_fd = self._raw_store.open(source_inode.raw, os.O_RDONLY)
        try:
            target_fd = self._raw_store.open(target_inode.raw, os.O_RDWR)
            try:
                await leave()
                return await trio.to_thread.run_sync(
                    os.copy_file_range,
                    source_fd,
                    target_fd,
                    min(size, COPY_BYTES_MAX),
                    source_offset,
                    target_offset,
                    limiter=self._threads,
                )
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    async def _hydrate_for_reading(self, inode: Inode) -> Inode:
        """Make a small file raw before it is opened; on a full disk its frames serve it instead."""
        if self._open_table.has_mode(inode.ino, OpenMode.DIRECT):
            return inode
        await leave()
        try:
            return await hydrate(self._move_parts, inode.ino, inode)
        except NoSpaceError:
            return inode
        except ObjectArchivedError:
            self._activity.note_archived(inode.ino)
            raise

    async def _kill_suidgid(self, caller: Caller, inode: Inode) -> Inode:
        if without_suidgid(caller, inode, inode.mode) == inode.mode:
            return inode
        async with self._engine.change(deferred=True):
            # Somebody may have set another mode since.
            now = await self._engine.get_inode(inode.ino)
            mode = without_suidgid(caller, now, now.mode)
            time_ns = self._next_ctime_ns(self._live(now))
            changes = AttributeChanges(mode=mode & 0o7777, ctime_ns=time_ns)
            after = await self._engine.set_attributes(inode.ino, changes)
        # Bytes change next: not where a full disk takes no commit, and the request is refused.
        await self._commit_early()
        return after


def _allocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate bytes of a raw file, or what else fallocate(2) does.

    ext4 allocates until nothing is left before it tells ENOSPC, and keeps that; for the daemon it
    takes the blocks that are for root as well. What cannot succeed is therefore refused before.

    Raises:
        NoSpaceError: There is less room than the range needs in any case.
        OSError: As fallocate(2) says.
    """
    if mode in (0, FallocateMode.KEEP_SIZE):
        disk = os.fstatvfs(fd)
        missing_bytes = length - os.fstat(fd).st_blocks * _BLOCK_BYTES
        room_bytes = disk.f_bavail * disk.f_frsize
        if missing_bytes > room_bytes:
            raise NoSpaceError(
                f"{length} bytes cannot be allocated: the disk has room for {room_bytes} more"
            )
    fallocate(fd, mode, offset, length)
