"""A mounted tree: the live file system, and in its root the directory `.memfs`.

`.memfs` is found by its name alone: no listing shows it, so that backups, `find` and `rm -rf` pass
it over. A root that has an entry of that name of its own, as states of earlier versions may, keeps
it: the user's entry is what the name leads to until it is renamed or removed.

Invariant: `.memfs` and all below it cannot be changed; nothing of it is known to the engine.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Never, TypeVar

from memfs.filesystem.inside.own import OWN_ROOT
from memfs.filesystem.inside.tree import NAME
from memfs.filesystem.nodes import LIVE_MAX
from memfs.filesystem.replies import Attributes, Entry
from memfs.filesystem.xattrs import TRUSTED_PREFIX
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from memfs.content.opening import Handle
    from memfs.filesystem.inside.tree import Tree
    from memfs.filesystem.operations import AttributeRequest, Caller, Operations
    from memfs.filesystem.replies import FilesystemStatistics, Opened
    from memfs.metadata.records import DirectoryEntry, Inode
    from memfs.types import InodeNo

T = TypeVar("T")

log = logging.getLogger(__name__)


class MountedTree:
    """Implements `operations.Operations` for a driver.

    Requests about the live tree are handed on as they come, without a coroutine in between.

    Args:
        live: The file system.
        tree_of: Returns what serves a node number beyond `LIVE_MAX`.
    """

    def __init__(self, live: Operations, tree_of: Callable[[InodeNo], Tree]) -> None:
        self._live = live
        self._tree_of = tree_of
        self.validity = live.validity
        self.opens_directories = live.opens_directories
        self._is_hidden_told = False

    # --- names -----------------------------------------------------------------------------------
    def lookup(
        self, parent: InodeNo, name: bytes, caller: Caller | None = None
    ) -> Coroutine[Any, Any, Entry | None]:
        """LOOKUP."""
        if parent <= LIVE_MAX and (parent != ROOT_INODE or name != NAME):
            return self._live.lookup(parent, name, caller)
        return self._lookup_inside(parent, name, caller)

    async def _lookup_inside(
        self, parent: InodeNo, name: bytes, caller: Caller | None
    ) -> Entry | None:
        if parent <= LIVE_MAX:
            entry = await self._live.lookup(parent, name, caller)
            if entry is not None:
                self._tell_hidden()
                return entry
            inode: Inode | None = await self._tree_of(OWN_ROOT).get_inode(OWN_ROOT)
        else:
            inode = await self._tree_of(parent).lookup(parent, name, caller)
        if inode is None:
            return None
        return Entry(inode, self.validity.name_s(inode), self.validity.attributes_s(inode))

    def _tell_hidden(self) -> None:
        if not self._is_hidden_told:
            self._is_hidden_told = True
            log.warning(
                "/%s is an entry of the user's own: rename it, to see snapshots and status there",
                os.fsdecode(NAME),
            )

    def create(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, flags: int
    ) -> Coroutine[Any, Any, tuple[Entry, Opened]]:
        """CREATE."""
        if parent <= LIVE_MAX and (parent != ROOT_INODE or name != NAME):
            return self._live.create(caller, parent, name, mode, flags)
        return self._unless_inside(
            parent, name, lambda: self._live.create(caller, parent, name, mode, flags)
        )

    def create_unnamed(
        self, caller: Caller, parent: InodeNo, mode: int, flags: int
    ) -> Coroutine[Any, Any, tuple[Entry, Opened]]:
        """TMPFILE."""
        if parent <= LIVE_MAX:
            return self._live.create_unnamed(caller, parent, mode, flags)
        return _refuse(parent)

    def make_node(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, rdev: int
    ) -> Coroutine[Any, Any, Entry]:
        """MKNOD."""
        return self._unless_inside(
            parent, name, lambda: self._live.make_node(caller, parent, name, mode, rdev)
        )

    def make_directory(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int
    ) -> Coroutine[Any, Any, Entry]:
        """MKDIR."""
        return self._unless_inside(
            parent, name, lambda: self._live.make_directory(caller, parent, name, mode)
        )

    def make_symlink(
        self, caller: Caller, parent: InodeNo, name: bytes, target: bytes
    ) -> Coroutine[Any, Any, Entry]:
        """SYMLINK."""
        return self._unless_inside(
            parent, name, lambda: self._live.make_symlink(caller, parent, name, target)
        )

    def read_link(self, ino: InodeNo) -> Coroutine[Any, Any, bytes]:
        """READLINK."""
        if ino <= LIVE_MAX:
            return self._live.read_link(ino)
        return self._tree_of(ino).read_link(ino)

    def link(self, ino: InodeNo, parent: InodeNo, name: bytes) -> Coroutine[Any, Any, Entry]:
        """LINK; what is inside is another file system's to a program: EXDEV has it copy."""
        if ino > LIVE_MAX and parent <= LIVE_MAX:
            return _refuse(ino, errno.EXDEV)
        return self._unless_inside(parent, name, lambda: self._live.link(ino, parent, name))

    def unlink(self, parent: InodeNo, name: bytes) -> Coroutine[Any, Any, None]:
        """UNLINK."""
        if parent <= LIVE_MAX and (parent != ROOT_INODE or name != NAME):
            return self._live.unlink(parent, name)
        return self._unless_inside(parent, name, lambda: self._live.unlink(parent, name))

    def give_back(self) -> Coroutine[Any, Any, None]:
        """After UNLINK, RENAME and RENAME2."""
        return self._live.give_back()

    def remove_directory(self, parent: InodeNo, name: bytes) -> Coroutine[Any, Any, None]:
        """RMDIR."""
        return self._unless_inside(parent, name, lambda: self._live.remove_directory(parent, name))

    def rename(
        self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes, flags: int
    ) -> Coroutine[Any, Any, None]:
        """RENAME, RENAME2."""
        return self._unless_inside(
            parent,
            name,
            lambda: self._unless_inside(
                new_parent,
                new_name,
                lambda: self._live.rename(parent, name, new_parent, new_name, flags),
            ),
        )

    def _unless_inside(
        self, parent: InodeNo, name: bytes, change: Callable[[], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        """Change a name, unless it is `.memfs` or inside of it."""
        if parent > LIVE_MAX:
            return _refuse(parent)
        if parent != ROOT_INODE or name != NAME:
            return change()
        return self._change_own(change)

    async def _change_own(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Change the root's own `.memfs`, if it has one."""
        if await self._live.lookup(ROOT_INODE, NAME) is None:
            return await _refuse(OWN_ROOT)
        return await change()

    def open_directory(self, caller: Caller, ino: InodeNo) -> Coroutine[Any, Any, None]:
        """OPENDIR."""
        return self._live.open_directory(caller, ino) if ino <= LIVE_MAX else _nothing()

    def list_directory(
        self, ino: InodeNo, after_cookie: int, limit: int
    ) -> Coroutine[Any, Any, list[DirectoryEntry]]:
        """READDIR, READDIRPLUS."""
        if ino <= LIVE_MAX:
            return self._live.list_directory(ino, after_cookie, limit)
        return self._tree_of(ino).list_directory(ino, after_cookie, limit)

    def get_parent(self, ino: InodeNo) -> Coroutine[Any, Any, InodeNo]:
        """The directory of a directory."""
        if ino <= LIVE_MAX:
            return self._live.get_parent(ino)
        return self._tree_of(ino).get_parent(ino)

    def forget(self, inos: Sequence[InodeNo]) -> None:
        """FORGET, BATCH_FORGET; nothing is remembered of what is inside."""
        self._live.forget([ino for ino in inos if ino <= LIVE_MAX])

    # --- attributes ------------------------------------------------------------------------------
    def get_attributes(self, ino: InodeNo) -> Coroutine[Any, Any, Attributes]:
        """GETATTR, STATX."""
        if ino <= LIVE_MAX:
            return self._live.get_attributes(ino)
        return self._attributes_inside(ino)

    async def _attributes_inside(self, ino: InodeNo) -> Attributes:
        inode = await self._tree_of(ino).get_inode(ino)
        return Attributes(inode, self.validity.attributes_s(inode))

    def set_attributes(
        self, caller: Caller, ino: InodeNo, request: AttributeRequest
    ) -> Coroutine[Any, Any, Attributes]:
        """SETATTR."""
        if ino <= LIVE_MAX:
            return self._live.set_attributes(caller, ino, request)
        return _refuse(ino)

    def lacks_capability(self, ino: InodeNo) -> bool:
        """Return True if it is known that a file has no `security.capability`."""
        return self._live.lacks_capability(ino)

    def get_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> Coroutine[Any, Any, bytes]:
        """GETXATTR."""
        if ino <= LIVE_MAX:
            return self._live.get_xattr(caller, ino, name)
        return self._tree_of(ino).get_xattr(ino, name)

    def set_xattr(
        self, caller: Caller, ino: InodeNo, name: bytes, value: bytes, flags: int, kill_sgid: bool
    ) -> Coroutine[Any, Any, None]:
        """SETXATTR."""
        if ino <= LIVE_MAX:
            return self._live.set_xattr(caller, ino, name, value, flags, kill_sgid)
        return _refuse(ino)

    def list_xattrs(self, caller: Caller, ino: InodeNo) -> Coroutine[Any, Any, list[bytes]]:
        """LISTXATTR."""
        if ino <= LIVE_MAX:
            return self._live.list_xattrs(caller, ino)
        return self._xattrs_inside(caller, ino)

    async def _xattrs_inside(self, caller: Caller, ino: InodeNo) -> list[bytes]:
        names = await self._tree_of(ino).list_xattrs(ino)
        return [name for name in names if caller.uid == 0 or not name.startswith(TRUSTED_PREFIX)]

    def remove_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> Coroutine[Any, Any, None]:
        """REMOVEXATTR."""
        if ino <= LIVE_MAX:
            return self._live.remove_xattr(caller, ino, name)
        return _refuse(ino)

    # --- content ---------------------------------------------------------------------------------
    def open(
        self, caller: Caller, ino: InodeNo, flags: int, kill_suidgid: bool = False
    ) -> Coroutine[Any, Any, Opened]:
        """OPEN."""
        if ino <= LIVE_MAX:
            return self._live.open(caller, ino, flags, kill_suidgid)
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            return _refuse(ino)
        return self._tree_of(ino).open(ino)

    def release(self, ino: InodeNo, handle: Handle) -> None:
        """RELEASE."""
        if ino <= LIVE_MAX:
            self._live.release(ino, handle)
        else:
            self._tree_of(ino).release(ino, handle)

    def read(
        self, ino: InodeNo, handle: Handle, offset: int, size: int
    ) -> Coroutine[Any, Any, bytes | bytearray]:
        """READ."""
        if ino <= LIVE_MAX:
            return self._live.read(ino, handle, offset, size)
        return self._tree_of(ino).read(ino, handle, offset, size)

    def write(
        self,
        caller: Caller,
        ino: InodeNo,
        handle: Handle,
        offset: int,
        data: memoryview,
        kill_suidgid: bool = False,
    ) -> Coroutine[Any, Any, int]:
        """WRITE."""
        if ino <= LIVE_MAX:
            return self._live.write(caller, ino, handle, offset, data, kill_suidgid)
        return _refuse(ino)

    def fsync(self, caller: Caller, ino: InodeNo, data_only: bool) -> Coroutine[Any, Any, None]:
        """FSYNC; what cannot change is as durable as it will be."""
        return self._live.fsync(caller, ino, data_only) if ino <= LIVE_MAX else _nothing()

    def fsync_directory(self, caller: Caller, ino: InodeNo) -> Coroutine[Any, Any, None]:
        """FSYNCDIR; likewise."""
        return self._live.fsync_directory(caller, ino) if ino <= LIVE_MAX else _nothing()

    def sync(self) -> Coroutine[Any, Any, None]:
        """SYNCFS."""
        return self._live.sync()

    def allocate(
        self, ino: InodeNo, mode: int, offset: int, length: int
    ) -> Coroutine[Any, Any, None]:
        """FALLOCATE."""
        if ino <= LIVE_MAX:
            return self._live.allocate(ino, mode, offset, length)
        return _refuse(ino)

    def seek(
        self, caller: Caller, ino: InodeNo, offset: int, whence: int
    ) -> Coroutine[Any, Any, int]:
        """LSEEK."""
        if ino <= LIVE_MAX:
            return self._live.seek(caller, ino, offset, whence)
        return self._tree_of(ino).seek(ino, offset, whence)

    def copy_range(
        self,
        source: InodeNo,
        source_offset: int,
        target: InodeNo,
        target_offset: int,
        size: int,
    ) -> Coroutine[Any, Any, int]:
        """COPY_FILE_RANGE."""
        if source <= LIVE_MAX and target <= LIVE_MAX:
            return self._live.copy_range(source, source_offset, target, target_offset, size)
        # The kernel copies by reading and writing then (fs/fuse/file.c).
        return _refuse(source, errno.EOPNOTSUPP)

    # --- the whole -------------------------------------------------------------------------------
    def statistics(self) -> Coroutine[Any, Any, FilesystemStatistics]:
        """STATFS."""
        return self._live.statistics()

    @property
    def uncommitted(self) -> bool:
        """True if replies must wait for `commit`."""
        return self._live.uncommitted

    def commit(self) -> Coroutine[Any, Any, None]:
        """Make the changes so far survive the death of the daemon."""
        return self._live.commit()


async def _nothing() -> None:
    """Do nothing."""


async def _refuse(node: InodeNo, code: int = errno.EROFS) -> Never:
    """Refuse a request."""
    raise OSError(code, f"node {node:#x} is inside of /.memfs")
