"""Requests about attributes: stat, chmod, chown, truncate, utimensat, statfs.

Invariant: a sealed raw file has the size and mtime of its inode, so that a difference tells of
writes that the engine does not know of; both are changed together here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.content.space import measure_cold_space
from memfs.errors import (
    InvalidValueError,
    IsADirectoryInodeError,
    NoXattrError,
    ObjectMissingError,
    StaleInodeError,
)
from memfs.filesystem.operations import CAPABILITY_XATTR, NOW_NS
from memfs.filesystem.replies import Attributes, FilesystemStatistics
from memfs.filesystem.writing import Writing
from memfs.linux.processes import groups_of
from memfs.linux.times import storable_ns
from memfs.metadata.records import AttributeChanges, Inode, InodeFlags
from memfs.moves.damage import replace_damaged
from memfs.namespace import acl
from memfs.types import NAME_BYTES_MAX
from memfs.waiting import leave

if TYPE_CHECKING:
    from memfs.filesystem.operations import AttributeRequest, Caller
    from memfs.types import InodeNo, RawId

ATIMES_BATCH_MAX = 512
"""Access times stored at once; requests are served before the next. Guess: about 10 ms."""


class Changed(NamedTuple):
    """An inode whose attributes were changed."""

    inode: Inode
    status: os.stat_result | None
    """Its raw file as it was just now, if it was asked."""


class AttributeRequests(Writing):
    """The requests that read and change an inode's attributes."""

    async def get_attributes(self, ino: InodeNo) -> Attributes:
        """GETATTR, STATX."""
        return self._attributes(await self._engine.get_inode(ino))

    async def set_attributes(
        self, caller: Caller, ino: InodeNo, request: AttributeRequest
    ) -> Attributes:
        """SETATTR."""
        self._activity.request_count += 1
        if request.size is not None:
            await self._engine.require_thawed(ino)
            return self._attributes(await self._truncate(caller, ino, request, request.size))
        return self._attributes(*await self._change(caller, ino, request))

    async def _change(self, caller: Caller, ino: InodeNo, request: AttributeRequest) -> Changed:
        """Change all but the size."""
        if request.uid is not None:
            # Another owner may inherit other pins: see `Engine.effective_pin`.
            self._activity.note_pin(ino)
        while True:
            # A seal, or a hydration, would store other times than those of the raw file. ACL and
            # capabilities go with the mode, or nothing does.
            async with self._open_table.gates.hold(ino), self._engine.change(deferred=True):
                inode = await self._engine.get_inode(ino)
                status = self._raw_status(inode, request)
                if not request.sets_times or self._sealer.damage_of(inode, status) is None:
                    return await self._change_attributes(caller, inode, status, request)
            # With other times it would look as if a program had changed it just now.
            await leave()
            await replace_damaged(self._move_parts, ino)

    def _raw_status(self, inode: Inode, request: AttributeRequest) -> os.stat_result | None:
        """Return the raw file's attributes where a change rests on them; None if it is missing."""
        if not inode.raw or not (request.sets_times or inode.flags & InodeFlags.UNSEALED):
            return None
        try:
            return self._raw_store.stat(inode.raw)
        except ObjectMissingError:
            return None

    async def _change_attributes(
        self,
        caller: Caller,
        inode: Inode,
        status: os.stat_result | None,
        request: AttributeRequest,
    ) -> Changed:
        """Change all but the size of an inode whose gate is held, within a change."""
        ino, live = inode.ino, self._live(inode, status)
        # Before the raw file gets other times.
        await self._engine.require_thawed(ino)
        time_ns = self._next_ctime_ns(live)
        atime_ns = _time_asked_for(request.atime_ns, time_ns)
        mtime_ns = _time_asked_for(request.mtime_ns, time_ns)
        if request.sets_times and inode.raw:
            status = self._set_raw_times(
                inode.raw,
                live.atime_ns if atime_ns is None else atime_ns,
                live.mtime_ns if mtime_ns is None else mtime_ns,
            )
            # As the disk has cut it.
            mtime_ns = None if mtime_ns is None else storable_ns(status.st_mtime_ns)
        if atime_ns is not None:
            self._atimes.pop(ino, None)
        changes = AttributeChanges(
            mode=await self._changed_mode(caller, inode, request),
            uid=request.uid,
            gid=request.gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            ctime_ns=time_ns,
        )
        if changes.mode is not None and self._features.acl:
            await self._chmod_acl(inode, changes.mode, time_ns)
        return Changed(await self._engine.set_attributes(ino, changes), status)

    async def statistics(self) -> FilesystemStatistics:
        """STATFS: the disk under the state directory, or the part of it that memfs may fill.

        And an inode for each 4 KiB still free, if the disk has so many.
        """
        disk = os.statvfs(self._state_dir)
        usage = await self._engine.usage()
        blocks, free, available = disk.f_blocks, disk.f_bfree, disk.f_bavail
        cold = self._features.cold
        if cold.size_bytes is not None:
            space = measure_cold_space(self._state_dir, cold, usage)
            blocks = space.capacity_bytes // disk.f_frsize
            free = max(0, space.capacity_bytes - space.used_bytes) // disk.f_frsize
            available = min(free, available)
        files_free = available * disk.f_frsize // 4096
        if disk.f_files:
            files_free = min(files_free, disk.f_favail)
        return FilesystemStatistics(
            disk.f_frsize,
            blocks,
            free,
            available,
            usage.inode_count + files_free,
            files_free,
            NAME_BYTES_MAX,
        )

    async def store_atimes(self) -> None:
        """Store the access times that the engine does not know yet, and commit.

        Checkpoint: a batch each. What waits for the next batch stays where requests look for it.
        """
        for _ in range(0, len(self._atimes), ATIMES_BATCH_MAX):
            for ino, atime_ns in list(itertools.islice(self._atimes.items(), ATIMES_BATCH_MAX)):
                with contextlib.suppress(StaleInodeError):
                    await self._engine.set_attributes(ino, AttributeChanges(atime_ns=atime_ns))
                # Not before: a program that asks meanwhile would see the former one again.
                if self._atimes.get(ino) == atime_ns:
                    del self._atimes[ino]
            await self._commit()
            await trio.lowlevel.checkpoint()

    def _set_raw_times(self, raw: RawId, atime_ns: int, mtime_ns: int) -> os.stat_result:
        """Set the times of a raw file; returns its attributes after it."""
        self._raw_store.set_times(raw, atime_ns, mtime_ns)
        return self._raw_store.stat(raw)

    async def _truncate(
        self, caller: Caller, ino: InodeNo, request: AttributeRequest, size: int
    ) -> Inode:
        if size < 0:
            raise InvalidValueError(f"a file cannot have {size} bytes")
        self._open_table.begin(ino, writing=True)
        try:
            inode = await (self._begun(ino) if size == 0 else self._sound(ino))
            if stat.S_ISDIR(inode.mode):
                raise IsADirectoryInodeError(f"inode {ino} is a directory; it has no size to set")
            if not stat.S_ISREG(inode.mode):
                raise InvalidValueError(f"inode {ino} is not a regular file")
            await self._make_writable(caller, inode, truncate=size == 0)
            inode, status = await self._change(caller, ino, request)
            # A request that is refused since a full disk takes no commit has cut nothing.
            await self._commit_early()
            await self._cut(inode, size, status)
            if request.atime_ns is not None or request.mtime_ns is not None:
                # Cutting has set others.
                cut = self._raw_store.stat(inode.raw)
                self._set_raw_times(
                    inode.raw,
                    cut.st_atime_ns if request.atime_ns is None else inode.atime_ns,
                    cut.st_mtime_ns if request.mtime_ns is None else inode.mtime_ns,
                )
        finally:
            self._end_opening(ino, writing=True)
        return inode

    async def _changed_mode(
        self, caller: Caller, inode: Inode, request: AttributeRequest
    ) -> int | None:
        """Return the new permission bits, with setuid and setgid cleared where POSIX says so."""
        mode = request.mode
        owner_changes = request.uid is not None or request.gid is not None
        if (owner_changes or request.kill_suidgid) and not stat.S_ISDIR(inode.mode):
            # chown(2): the bits go, even for root; and so do file capabilities (capabilities(7)).
            before = inode.mode if mode is None else mode
            cleared = without_suidgid(caller, inode, before)
            if cleared != before:
                mode = cleared & 0o7777
            with contextlib.suppress(NoXattrError):
                await self._engine.remove_xattr(inode.ino, CAPABILITY_XATTR, inode.ctime_ns)
        return mode

    async def _chmod_acl(self, inode: Inode, mode: int, time_ns: int) -> None:
        try:
            value = await self._engine.get_xattr(inode.ino, acl.ACCESS_XATTR)
        except NoXattrError:
            return
        await self._engine.set_mode_and_xattrs(
            inode.ino, mode & 0o7777, [(acl.ACCESS_XATTR, acl.with_mode(value, mode))], time_ns
        )


def _time_asked_for(asked_ns: int | None, now_ns: int) -> int | None:
    """Return the time to store, which is cut to what can be; None: the former one stays."""
    if asked_ns is None:
        return None
    return now_ns if asked_ns == NOW_NS else storable_ns(asked_ns)


def without_suidgid(caller: Caller, inode: Inode, mode: int) -> int:
    """Return a mode as a change of the bytes by an ordinary user leaves it (write(2), inode(7)).

    Setgid of a file that its group cannot run is kept for root and members of the group.

    Source: setattr_should_drop_suidgid, fs/attr.c.
    """
    mode &= ~stat.S_ISUID
    if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not _is_member(caller, inode.gid)):
        mode &= ~stat.S_ISGID
    return mode


def _is_member(caller: Caller, gid: int) -> bool:
    return caller.uid == 0 or gid == caller.gid or gid in groups_of(caller.pid)
