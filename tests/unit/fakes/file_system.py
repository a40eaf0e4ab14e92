"""A small `Operations`: names and attributes in memory, content in plain files of a directory.

Invariant: it counts each call by name, and it is uncommitted exactly from a change to a commit.
"""

from __future__ import annotations

import collections
import errno
import itertools
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from memfs.content.opening import Handle, OpenMode
from memfs.errors import (
    AlreadyExistsError,
    DirectoryNotEmptyError,
    NotFoundError,
    NoXattrError,
    StaleInodeError,
)
from memfs.filesystem.operations import NOW_NS
from memfs.filesystem.replies import Attributes, Entry, FilesystemStatistics, Opened
from memfs.filesystem.validity import Validity, ValidityLimits
from memfs.metadata.records import DirectoryEntry, Inode
from memfs.types import NO_BLOB, ROOT_INODE, Generation, InodeNo, RawId
from memfs.waiting import leave
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.content.opening import Backing
    from memfs.filesystem.operations import AttributeRequest, Caller

VALID_S = 3600.0
LIMITS = ValidityLimits(VALID_S, VALID_S, VALID_S)


class FakeValidity(Validity):
    """Regular files may be written behind the kernel's back, so their attributes expire at once."""

    def __init__(self, limits: ValidityLimits = LIMITS) -> None:
        self._limits = limits

    def attributes_s(self, inode: Inode) -> float:
        return 0.0 if stat.S_ISREG(inode.mode) else self._limits.attributes_s


_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2


@dataclass
class FakeInode:
    """What one inode is."""

    ino: InodeNo
    mode: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    btime_ns: int = 0
    target: bytes = b""
    children: dict[bytes, InodeNo] = field(default_factory=dict)
    parent: InodeNo = ROOT_INODE
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    backing: int = 0
    backing_fd: int = -1


class FakeFilesystem:
    """Serves files out of a directory of raw files.

    Args:
        directory: Where the raw files go.
        backing: The kernel's registry, or None to serve all content itself.

    Attributes:
        calls: How often each method was called.
        commit_count: Commits so far.
        commit_error: Raised by the next commits while it is set.
        commit_gate: Commits leave and wait for it while there is one.
        mode: Overrides the opening mode while it is set.
        released: Inodes whose handles were given back.
        forgotten: Inodes that the kernel dropped.
        gate: Reads and writes of files with the xattr `user.test.slow` leave and wait for it, and
            so do creations in such directories.
        waiting: Set when one of them waits.
    """

    def __init__(self, directory: Path, backing: Backing | None = None) -> None:
        self.directory = directory
        self._backing = backing
        self.calls: collections.Counter[str] = collections.Counter()
        self.commit_count = 0
        self.commit_error: Exception | None = None
        self.commit_gate: trio.Event | None = None
        self.mode: OpenMode | None = None
        self.released: list[InodeNo] = []
        self.forgotten: list[InodeNo] = []
        self.validity: Validity = FakeValidity()
        self.gate = trio.Event()
        self.waiting = trio.Event()
        self._changed = False
        now = time.time_ns()
        root = FakeInode(ROOT_INODE, stat.S_IFDIR | 0o755, nlink=2)
        root.atime_ns = root.mtime_ns = root.ctime_ns = root.btime_ns = now
        self.inodes = {ROOT_INODE: root}
        self._next = 2

    # --- helpers of the fake ---------------------------------------------------------------------
    def path(self, ino: InodeNo) -> Path:
        """The raw file of an inode."""
        return self.directory / str(ino)

    def add_file(self, name: bytes, content: bytes) -> FakeInode:
        """Make a file in the root without the kernel's knowing, committed."""
        node = self._make(None, ROOT_INODE, name, stat.S_IFREG | 0o644)
        self.path(node.ino).write_bytes(content)
        self._changed = False
        return node

    async def wait_for_waiting(self) -> None:
        """Return when a request waits at the gate.

        Raises:
            AssertionError: There is no such request within `WAIT_S`.
        """
        with trio.move_on_after(WAIT_S) as scope:
            await self.waiting.wait()
        assert not scope.cancelled_caught, "no request came to the gate"

    def add_fifos(self, parent: InodeNo, count: int) -> None:
        """Fill a directory with many cheap inodes, `0` and up, committed."""
        for index in range(count):
            self._make(None, parent, b"%d" % index, stat.S_IFIFO | 0o644)
        self._changed = False

    def inode(self, ino: InodeNo) -> FakeInode:
        """The inode of a number."""
        try:
            return self.inodes[ino]
        except KeyError:
            raise StaleInodeError(str(ino)) from None

    def record(self, node: FakeInode) -> Inode:
        """An inode as the file system replies it."""
        size, blocks = len(node.target), 0
        atime, mtime, ctime = node.atime_ns, node.mtime_ns, node.ctime_ns
        if stat.S_ISREG(node.mode):
            status = os.stat(self.path(node.ino))
            size, blocks = status.st_size, status.st_blocks
            atime, mtime = status.st_atime_ns, status.st_mtime_ns
            ctime = max(ctime, status.st_ctime_ns)
        return Inode(
            node.ino, node.mode, node.uid, node.gid, node.nlink, node.rdev, size, blocks,
            atime, mtime, ctime, node.btime_ns, Generation(1), RawId(node.ino), NO_BLOB, 0, 0,
            None, 0,
        )  # fmt: skip

    def _entry(self, node: FakeInode) -> Entry:
        inode = self.record(node)
        return Entry(inode, self.validity.name_s(inode), self.validity.attributes_s(inode))

    def _make(
        self, caller: Caller | None, parent: InodeNo, name: bytes | None, mode: int
    ) -> FakeInode:
        node = FakeInode(InodeNo(self._next), mode, parent=parent)
        if caller is not None:
            node.uid, node.gid = caller.uid, caller.gid
            if not stat.S_ISLNK(mode):
                node.mode &= ~caller.umask
        self._next += 1
        node.atime_ns = node.mtime_ns = node.ctime_ns = node.btime_ns = time.time_ns()
        if name is None:
            node.nlink = 0
        else:
            directory = self.inode(parent)
            if name in directory.children:
                raise AlreadyExistsError(os.fsdecode(name))
            directory.children[name] = node.ino
            directory.mtime_ns = directory.ctime_ns = node.btime_ns
        self.inodes[node.ino] = node
        if stat.S_ISREG(mode):
            os.close(os.open(self.path(node.ino), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._changed = True
        return node

    def _open(self, node: FakeInode) -> Opened:
        mode = self.mode
        if mode is None:
            mode = OpenMode.CACHED if self._backing is None else OpenMode.PASSTHROUGH
        if mode == OpenMode.PASSTHROUGH and not node.backing:
            assert self._backing is not None
            fd = os.open(self.path(node.ino), os.O_RDONLY)
            node.backing = self._backing.register(fd)
            os.close(fd)
        backing = node.backing if mode == OpenMode.PASSTHROUGH else 0
        return Opened(Handle(1), mode, backing)

    def _child(self, parent: InodeNo, name: bytes) -> FakeInode:
        try:
            return self.inodes[self.inode(parent).children[name]]
        except KeyError:
            raise NotFoundError(os.fsdecode(name)) from None

    def _drop_name(self, parent: InodeNo, name: bytes) -> None:
        node = self._child(parent, name)
        del self.inode(parent).children[name]
        node.nlink = 0 if stat.S_ISDIR(node.mode) else node.nlink - 1
        self._changed = True

    # --- names -----------------------------------------------------------------------------------
    async def lookup(
        self, parent: InodeNo, name: bytes, caller: Caller | None = None
    ) -> Entry | None:
        self.calls["lookup"] += 1
        if name == b"bug":
            raise ZeroDivisionError("a bug in the file system")
        if name == b"bad-suspension":
            await trio.lowlevel.checkpoint()
        try:
            return self._entry(self._child(parent, name))
        except NotFoundError:
            return None

    async def create(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        self.calls["create"] += 1
        await self._wait_if_slow(parent)
        node = self._make(caller, parent, name, mode)
        return self._entry(node), self._open(node)

    async def create_unnamed(
        self, caller: Caller, parent: InodeNo, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        self.calls["create_unnamed"] += 1
        node = self._make(caller, parent, None, mode)
        return self._entry(node), self._open(node)

    async def make_node(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, rdev: int
    ) -> Entry:
        self.calls["make_node"] += 1
        node = self._make(caller, parent, name, mode)
        node.rdev = rdev
        return self._entry(node)

    async def make_directory(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int
    ) -> Entry:
        self.calls["make_directory"] += 1
        node = self._make(caller, parent, name, stat.S_IFDIR | mode)
        node.nlink = 2
        return self._entry(node)

    async def make_symlink(
        self, caller: Caller, parent: InodeNo, name: bytes, target: bytes
    ) -> Entry:
        self.calls["make_symlink"] += 1
        node = self._make(caller, parent, name, stat.S_IFLNK | 0o777)
        node.target = target
        return self._entry(node)

    async def read_link(self, ino: InodeNo) -> bytes:
        self.calls["read_link"] += 1
        return self.inode(ino).target

    async def link(self, ino: InodeNo, parent: InodeNo, name: bytes) -> Entry:
        self.calls["link"] += 1
        node = self.inode(ino)
        self.inode(parent).children[name] = ino
        node.nlink += 1
        self._changed = True
        return self._entry(node)

    async def unlink(self, parent: InodeNo, name: bytes) -> None:
        self.calls["unlink"] += 1
        self._drop_name(parent, name)

    async def give_back(self) -> None:
        self.calls["give_back"] += 1

    async def remove_directory(self, parent: InodeNo, name: bytes) -> None:
        self.calls["remove_directory"] += 1
        if self._child(parent, name).children:
            raise DirectoryNotEmptyError(os.fsdecode(name))
        self._drop_name(parent, name)

    async def rename(
        self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes, flags: int
    ) -> None:
        self.calls["rename"] += 1
        source, target = self.inode(parent).children, self.inode(new_parent).children
        node = self._child(parent, name)
        if flags & _RENAME_NOREPLACE and new_name in target:
            raise AlreadyExistsError(os.fsdecode(new_name))
        if flags & _RENAME_EXCHANGE:
            source[name] = self._child(new_parent, new_name).ino
        else:
            if new_name in target:
                self._drop_name(new_parent, new_name)
            del source[name]
        target[new_name] = node.ino
        node.parent = new_parent
        self._changed = True

    opens_directories = False

    async def open_directory(self, caller: Caller, ino: InodeNo) -> None:
        self.calls["open_directory"] += 1

    async def list_directory(
        self, ino: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        self.calls["list_directory"] += 1
        begin = after_cookie - 2 if after_cookie else 0
        items = self.inode(ino).children.items()
        children = list(itertools.islice(items, begin, begin + limit))
        return [
            DirectoryEntry(begin + index + 3, name, self.record(self.inodes[child]))
            for index, (name, child) in enumerate(children)
        ]

    async def get_parent(self, ino: InodeNo) -> InodeNo:
        return self.inode(ino).parent

    def forget(self, inos: Sequence[InodeNo]) -> None:
        self.calls["forget"] += 1
        self.forgotten.extend(inos)

    # --- attributes ------------------------------------------------------------------------------
    async def get_attributes(self, ino: InodeNo) -> Attributes:
        self.calls["get_attributes"] += 1
        node = self.inode(ino)
        inode = self.record(node)
        return Attributes(inode, self.validity.attributes_s(inode))

    async def set_attributes(
        self, caller: Caller, ino: InodeNo, request: AttributeRequest
    ) -> Attributes:
        self.calls["set_attributes"] += 1
        node = self.inode(ino)
        self.last_attribute_request = request
        now = time.time_ns()
        if request.mode is not None:
            node.mode = request.mode
        if request.kill_suidgid:
            node.mode &= ~stat.S_ISUID
        if request.uid is not None:
            node.uid = request.uid
        if request.gid is not None:
            node.gid = request.gid
        if request.size is not None:
            os.truncate(self.path(ino), request.size)
        if request.atime_ns is not None or request.mtime_ns is not None:
            self._set_times(node, request, now)
        node.ctime_ns = now
        self._changed = True
        return Attributes(self.record(node), 0.0)

    def _set_times(self, node: FakeInode, request: AttributeRequest, now_ns: int) -> None:
        record = self.record(node)
        atime = record.atime_ns if request.atime_ns is None else request.atime_ns
        mtime = record.mtime_ns if request.mtime_ns is None else request.mtime_ns
        node.atime_ns = now_ns if atime == NOW_NS else atime
        node.mtime_ns = now_ns if mtime == NOW_NS else mtime
        if stat.S_ISREG(node.mode):
            os.utime(self.path(node.ino), ns=(node.atime_ns, node.mtime_ns))

    def lacks_capability(self, ino: InodeNo) -> bool:
        return False

    async def get_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> bytes:
        self.calls["get_xattr"] += 1
        try:
            return self.inode(ino).xattrs[name]
        except KeyError:
            raise NoXattrError(os.fsdecode(name)) from None

    async def set_xattr(
        self, caller: Caller, ino: InodeNo, name: bytes, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        self.calls["set_xattr"] += 1
        xattrs = self.inode(ino).xattrs
        if flags & os.XATTR_CREATE and name in xattrs:
            raise AlreadyExistsError(os.fsdecode(name))
        if flags & os.XATTR_REPLACE and name not in xattrs:
            raise NoXattrError(os.fsdecode(name))
        xattrs[name] = value
        self._changed = True

    async def list_xattrs(self, caller: Caller, ino: InodeNo) -> list[bytes]:
        self.calls["list_xattrs"] += 1
        return list(self.inode(ino).xattrs)

    async def remove_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> None:
        self.calls["remove_xattr"] += 1
        if self.inode(ino).xattrs.pop(name, None) is None:
            raise NoXattrError(os.fsdecode(name))
        self._changed = True

    # --- content ---------------------------------------------------------------------------------
    async def open(
        self, caller: Caller, ino: InodeNo, flags: int, kill_suidgid: bool = False
    ) -> Opened:
        self.calls["open"] += 1
        node = self.inode(ino)
        if flags & os.O_TRUNC:
            os.truncate(self.path(ino), 0)
        return self._open(node)

    def release(self, ino: InodeNo, handle: Handle) -> None:
        self.calls["release"] += 1
        self.released.append(ino)

    async def read(self, ino: InodeNo, handle: Handle, offset: int, size: int) -> bytes:
        self.calls["read"] += 1
        await self._wait_if_slow(ino)
        fd = os.open(self.path(ino), os.O_RDONLY)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    async def _wait_if_slow(self, ino: InodeNo) -> None:
        if self.inode(ino).xattrs.get(b"user.test.slow"):
            await leave()
            self.waiting.set()
            await self.gate.wait()

    async def write(
        self,
        caller: Caller,
        ino: InodeNo,
        handle: Handle,
        offset: int,
        data: memoryview,
        kill_suidgid: bool = False,
    ) -> int:
        self.calls["write"] += 1
        if kill_suidgid:
            self.inode(ino).mode &= ~stat.S_ISUID
        await self._wait_if_slow(ino)
        fd = os.open(self.path(ino), os.O_WRONLY)
        try:
            return os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    async def fsync(self, caller: Caller, ino: InodeNo, data_only: bool) -> None:
        self.calls["fdatasync" if data_only else "fsync"] += 1
        await leave()
        await trio.to_thread.run_sync(self._fsync_nowait, ino)

    def _fsync_nowait(self, ino: InodeNo) -> None:
        fd = os.open(self.path(ino), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    async def fsync_directory(self, caller: Caller, ino: InodeNo) -> None:
        self.calls["fsync_directory"] += 1

    async def sync(self) -> None:
        self.calls["sync"] += 1

    async def allocate(self, ino: InodeNo, mode: int, offset: int, length: int) -> None:
        self.calls["allocate"] += 1
        if mode:
            raise OSError(errno.EOPNOTSUPP, "mode of fallocate")
        fd = os.open(self.path(ino), os.O_WRONLY)
        try:
            os.posix_fallocate(fd, offset, length)
        finally:
            os.close(fd)

    async def seek(self, caller: Caller, ino: InodeNo, offset: int, whence: int) -> int:
        self.calls["seek"] += 1
        fd = os.open(self.path(ino), os.O_RDONLY)
        try:
            return os.lseek(fd, offset, whence)
        finally:
            os.close(fd)

    async def copy_range(
        self,
        source: InodeNo,
        source_offset: int,
        target: InodeNo,
        target_offset: int,
        size: int,
    ) -> int:
        self.calls["copy_range"] += 1
        source_fd = os.open(self.path(source), os.O_RDONLY)
        target_fd = os.open(self.path(target), os.O_WRONLY)
        try:
            return os.copy_file_range(source_fd, target_fd, size, source_offset, target_offset)
        finally:
            os.close(source_fd)
            os.close(target_fd)

    # --- the whole -------------------------------------------------------------------------------
    async def statistics(self) -> FilesystemStatistics:
        self.calls["statistics"] += 1
        return FilesystemStatistics(4096, 1000, 600, 500, 100, 90, 255)

    @property
    def uncommitted(self) -> bool:
        return self._changed

    async def commit(self) -> None:
        if self.commit_gate is not None:
            await leave()
            await self.commit_gate.wait()
        self._changed = False
        if self.commit_error is not None:
            raise self.commit_error
        self.commit_count += 1
