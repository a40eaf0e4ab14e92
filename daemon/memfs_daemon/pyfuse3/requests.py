"""The requests of libfuse, handed to the file system one by one.

Invariants:
- No exception but `FUSEError` leaves a handler, as any other ends the daemon.
- When a handler returns, and so before its reply is sent, nothing is uncommitted.
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio

from memfs.errors import MemfsError, NotSupportedError, StaleInodeError
from memfs.filesystem.operations import AttributeRequest
from memfs.metrics.latency import Latencies
from memfs.types import InodeNo
from memfs_daemon.pyfuse3.convert import (
    OpenFiles,
    is_truncating,
    missing_entry,
    to_attributes,
    to_entry,
    to_statistics,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import Any

    from pyfuse3 import (
        EntryAttributes,
        FileHandleT,
        FileInfo,
        FileNameT,
        FlagT,
        InodeT,
        ModeT,
        ReaddirToken,
        RequestContext,
        SetattrFields,
        StatvfsData,
        XAttrNameT,
    )

    from memfs.content.opening import Handle
    from memfs.filesystem.operations import Operations

log = logging.getLogger(__name__)

_DOT_COOKIE, _DOT_DOT_COOKIE = 1, 2
_LIST_COUNT = 32
"""Dentries asked for at a time: a reply of one page, as older kernels ask, holds 23 short names."""
_ACL_PREFIX = b"system.posix_acl_"

P = ParamSpec("P")
R = TypeVar("R")


class Caller:
    """See `operations.Caller`; each request is a task already."""

    __slots__ = ("gid", "pid", "uid", "umask")

    def __init__(self, context: RequestContext) -> None:
        self.uid = context.uid
        self.gid = context.gid
        self.pid = context.pid
        # libfuse does not ask for FUSE_DONT_MASK here: the kernel has applied the umask already.
        self.umask = 0

    def is_alone(self) -> bool:
        """Nobody knows what waits in libfuse."""
        return False


class _Kernel(Caller):
    """Who sends the requests that come without a context."""

    __slots__ = ()

    def __init__(self) -> None:
        self.uid = self.gid = self.pid = self.umask = 0


_KERNEL = _Kernel()


def _answering(
    handler: Callable[Concatenate[Requests, P], Awaitable[R]],
) -> Callable[Concatenate[Requests, P], Coroutine[Any, Any, R]]:
    """Turn what a handler raises into an errno, and commit before it returns."""

    async def answered(self: Requests, /, *args: P.args, **kwargs: P.kwargs) -> R:
        begun_ns = time.monotonic_ns()
        try:
            try:
                reply = await handler(self, *args, **kwargs)
            except Exception as error:
                await self.commit(handler.__name__)
                raise pyfuse3.FUSEError(self.errno_of(handler.__name__, error)) from error
            await self.commit(handler.__name__)
            return reply
        finally:
            self.latencies.note(handler.__name__, time.monotonic_ns() - begun_ns)

    functools.update_wrapper(answered, handler)
    return answered


class Requests(pyfuse3.Operations):
    """Answers libfuse from an `Operations`.

    FLUSH, ACCESS and POLL keep the library's answer ENOSYS: the kernel then stops asking.

    Attributes:
        initialised: Set when the kernel's first request was answered.
        latencies: Told how long each request took.
    """

    supports_dot_lookup = True
    enable_writeback_cache = False
    # The kernel then asks for and enforces the ACLs that the kernel driver has set. Setting them is
    # refused below: without FUSE_DONT_MASK a default ACL cannot replace the umask (acl(5)).
    enable_acl = True

    def __init__(self, operations: Operations, latencies: Latencies | None = None) -> None:
        super().__init__()
        self.latencies = latencies or Latencies()
        self._operations = operations
        self._files = OpenFiles()
        self._bugs_seen: set[tuple[str, str]] = set()
        self.initialised = trio.Event()

    def init(self) -> None:
        """INIT."""
        self.initialised.set()

    async def commit(self, request: str) -> None:
        """Commit if need be.

        Raises:
            FUSEError: The commit failed; the request is answered with its errno.
        """
        if self._operations.uncommitted:
            try:
                await self._operations.commit()
            except Exception as error:
                raise pyfuse3.FUSEError(self.errno_of(request, error)) from error

    async def _commit_opened(self, request: str, ino: InodeNo, handle: Handle) -> None:
        """Commit; a failure takes the handle back, of which the kernel will never learn."""
        try:
            await self.commit(request)
        except pyfuse3.FUSEError:
            self._operations.release(ino, handle)
            raise

    def errno_of(self, request: str, error: Exception) -> int:
        """Return what the program sees; log what no program should have to see."""
        if isinstance(error, pyfuse3.FUSEError):
            return error.errno
        if isinstance(error, MemfsError | OSError) and error.errno:
            log.debug("%s: %s", request, error)
            return error.errno
        bug = request, type(error).__qualname__
        traceback = None if bug in self._bugs_seen else error
        log.error("%s: %r is a bug; answered EIO", request, error, exc_info=traceback)
        self._bugs_seen.add(bug)
        return errno.EIO

    # --- names -----------------------------------------------------------------------------------
    @_answering
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """LOOKUP; a missing name is an answer that the kernel keeps, not an error."""
        ino = InodeNo(parent_inode)
        if name == b"." or name == b"..":
            return await self._lookup_dots(ino, name)
        entry = await self._operations.lookup(ino, name, Caller(ctx))
        if entry is None:
            return missing_entry(self._operations.validity.missing_s(ino))
        return to_entry(*entry)

    async def _lookup_dots(self, ino: InodeNo, name: bytes) -> EntryAttributes:
        """Answer open_by_handle_at(2), for an inode that the kernel has forgotten."""
        if name == b"..":
            ino = await self._operations.get_parent(ino)
        inode, valid_s = await self._operations.get_attributes(ino)
        if not inode.nlink:
            raise StaleInodeError(f"inode {ino} was removed")
        return to_entry(inode, self._operations.validity.name_s(inode), valid_s)

    @_answering
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        """CREATE."""
        entry, opened = await self._operations.create(
            Caller(ctx), InodeNo(parent_inode), name, mode, flags
        )
        await self._commit_opened("create", entry.inode.ino, opened.handle)
        file = self._files.to_file_info(entry.inode.ino, opened, privileged=ctx.uid == 0)
        return file, to_entry(*entry)

    @_answering
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """MKNOD."""
        return to_entry(
            *await self._operations.make_node(Caller(ctx), InodeNo(parent_inode), name, mode, rdev)
        )

    @_answering
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """MKDIR."""
        return to_entry(
            *await self._operations.make_directory(Caller(ctx), InodeNo(parent_inode), name, mode)
        )

    @_answering
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """SYMLINK."""
        return to_entry(
            *await self._operations.make_symlink(Caller(ctx), InodeNo(parent_inode), name, target)
        )

    @_answering
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """READLINK."""
        return pyfuse3.FileNameT(await self._operations.read_link(InodeNo(inode)))

    @_answering
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """LINK."""
        return to_entry(
            *await self._operations.link(InodeNo(inode), InodeNo(new_parent_inode), new_name)
        )

    @_answering
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """UNLINK."""
        await self._operations.unlink(InodeNo(parent_inode), name)
        await self._operations.give_back()

    @_answering
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """RMDIR."""
        await self._operations.remove_directory(InodeNo(parent_inode), name)

    @_answering
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """RENAME, RENAME2."""
        await self._operations.rename(
            InodeNo(parent_inode_old), name_old, InodeNo(parent_inode_new), name_new, flags
        )
        await self._operations.give_back()

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """FORGET, BATCH_FORGET; nobody waits for an answer, and no call may fail."""
        try:
            self._operations.forget([InodeNo(inode) for inode, _ in inode_list])
            await self.commit("forget")
        except Exception as error:
            self.errno_of("forget", error)

    # --- directories -----------------------------------------------------------------------------
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """OPENDIR: the listing needs no state, only to know of which directory."""
        if self._operations.opens_directories:
            await self._open_directory(inode, ctx)
        return pyfuse3.FileHandleT(inode)

    @_answering
    async def _open_directory(self, inode: InodeT, ctx: RequestContext) -> None:
        await self._operations.open_directory(Caller(ctx), InodeNo(inode))

    async def releasedir(self, fh: FileHandleT) -> None:
        """RELEASEDIR."""

    @_answering
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """READDIRPLUS: each dentry is a whole LOOKUP reply, and the kernel counts it as one."""
        ino = InodeNo(fh)
        reply, validity = pyfuse3.readdir_reply, self._operations.validity
        if not await self._reply_dots(ino, start_id, token):
            return
        cookie = start_id if start_id > _DOT_DOT_COOKIE else 0
        while dentries := await self._operations.list_directory(ino, cookie, _LIST_COUNT):
            for dentry in dentries:
                cookie = dentry.cookie
                inode = dentry.inode
                entry = to_entry(inode, validity.name_s(inode), validity.attributes_s(inode))
                if not reply(token, pyfuse3.FileNameT(dentry.name), entry, cookie):
                    return
            if len(dentries) < _LIST_COUNT:
                return

    async def _reply_dots(self, ino: InodeNo, start_id: int, token: ReaddirToken) -> bool:
        """List `.` and `..` if they are due; the kernel takes only number and type of them."""
        dots = []
        if start_id < _DOT_COOKIE:
            dots.append((b".", ino, _DOT_COOKIE))
        if start_id < _DOT_DOT_COOKIE:
            dots.append((b"..", await self._operations.get_parent(ino), _DOT_DOT_COOKIE))
        for name, target, cookie in dots:
            attributes = await self._operations.get_attributes(target)
            entry = to_attributes(*attributes)
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), entry, cookie):
                return False
        return True

    @_answering
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """FSYNCDIR."""
        await self._operations.fsync_directory(_KERNEL, InodeNo(fh))

    # --- attributes ------------------------------------------------------------------------------
    @_answering
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """GETATTR."""
        return to_attributes(*await self._operations.get_attributes(InodeNo(inode)))

    @_answering
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """SETATTR; the kernel adds the mode where chown or truncate clears setuid and setgid."""
        request = AttributeRequest(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        return to_attributes(
            *await self._operations.set_attributes(Caller(ctx), InodeNo(inode), request)
        )

    @_answering
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """STATFS."""
        return to_statistics(await self._operations.statistics())

    @_answering
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """GETXATTR; pyfuse3 also asks before SETXATTR with XATTR_CREATE or XATTR_REPLACE."""
        return await self._operations.get_xattr(Caller(ctx), InodeNo(inode), name)

    @_answering
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        """SETXATTR."""
        _refuse_acl(name)
        await self._operations.set_xattr(
            Caller(ctx), InodeNo(inode), name, value, flags=0, kill_sgid=False
        )

    @_answering
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """LISTXATTR."""
        names = await self._operations.list_xattrs(Caller(ctx), InodeNo(inode))
        return [pyfuse3.XAttrNameT(name) for name in names]

    @_answering
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """REMOVEXATTR."""
        _refuse_acl(name)
        await self._operations.remove_xattr(Caller(ctx), InodeNo(inode), name)

    # --- content ---------------------------------------------------------------------------------
    @_answering
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """OPEN; libfuse takes FUSE_ATOMIC_O_TRUNC, where the kernel leaves setuid to us."""
        ino = InodeNo(inode)
        privileged = ctx.uid == 0
        opened = await self._operations.open(
            Caller(ctx), ino, flags, kill_suidgid=is_truncating(flags) and not privileged
        )
        await self._commit_opened("open", ino, opened.handle)
        return self._files.to_file_info(ino, opened, privileged=privileged)

    @_answering
    async def release(self, fh: FileHandleT) -> None:
        """RELEASE."""
        file = self._files.take(fh)
        self._operations.release(file.ino, file.handle)

    @_answering
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """READ."""
        file = self._files.find(fh)
        data = self._operations.read(file.ino, file.handle, off, size)
        return await data  # type: ignore[return-value]  # pyfuse3 takes any buffer, says bytes

    @_answering
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """WRITE."""
        file = self._files.find(fh)
        return await self._operations.write(
            _KERNEL,
            file.ino,
            file.handle,
            off,
            memoryview(buf),
            kill_suidgid=file.clearing,
        )

    @_answering
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """FSYNC."""
        await self._operations.fsync(_KERNEL, self._files.find(fh).ino, datasync)


def _refuse_acl(name: bytes) -> None:
    if name.startswith(_ACL_PREFIX):
        raise NotSupportedError("POSIX ACLs are changed under the kernel driver only")
