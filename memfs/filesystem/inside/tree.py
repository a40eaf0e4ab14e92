"""The contract between a mounted tree and each part of `.memfs`: reading alone.

Invariant: nothing in `.memfs` is changed by a request; who asks for a change is refused before a
part is asked.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Protocol

from memfs.errors import (
    InvalidValueError,
    IsADirectoryInodeError,
    NotADirectoryInodeError,
    NoXattrError,
)
from memfs.filesystem.shared import with_directory_size
from memfs.metadata.records import NewInode
from memfs.types import BLOCK_BYTES

if TYPE_CHECKING:
    from memfs.content.opening import Handle
    from memfs.filesystem.operations import Caller
    from memfs.filesystem.replies import Opened
    from memfs.metadata.records import DirectoryEntry, Inode
    from memfs.types import InodeNo

NAME = b".memfs"
"""That of the directory, in the root."""

FIRST_COOKIE = 3
"""Listings begin there: those before belong to `.` and `..`."""


class Tree(Protocol):
    """A part of `.memfs`; as `Operations` has it, by node number.

    Inodes that it returns have their node number as `ino`, and attributes that `Validity` says the
    time of.
    """

    async def lookup(self, parent: InodeNo, name: bytes, caller: Caller | None) -> Inode | None:
        """Return what a name leads to; None if it is missing."""
        ...

    async def list_directory(
        self, node: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """Return entries after a cookie."""
        ...

    async def get_parent(self, node: InodeNo) -> InodeNo:
        """Return the directory of a directory."""
        ...

    async def get_inode(self, node: InodeNo) -> Inode:
        """Return attributes as of now."""
        ...

    async def read_link(self, node: InodeNo) -> bytes:
        """Return a symlink's target."""
        ...

    async def list_xattrs(self, node: InodeNo) -> list[bytes]:
        """Return names of xattrs, without those that control memfs."""
        ...

    async def get_xattr(self, node: InodeNo, name: bytes) -> bytes:
        """Return the value of an xattr."""
        ...

    async def open(self, node: InodeNo) -> Opened:
        """Open a file for reading."""
        ...

    async def read(
        self, node: InodeNo, handle: Handle, offset: int, size: int
    ) -> bytes | bytearray:
        """Return bytes of an open file."""
        ...

    async def seek(self, node: InodeNo, offset: int, whence: int) -> int:
        """Return where data or a hole is."""
        ...

    def release(self, node: InodeNo, handle: Handle) -> None:
        """Close an open file."""
        ...


class Plain:
    """What a part answers that has no names, no links, no xattrs, or no files."""

    async def lookup(self, parent: InodeNo, name: bytes, caller: Caller | None) -> Inode | None:
        raise NotADirectoryInodeError(f"node {parent} is not a directory")

    async def list_directory(
        self, node: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        raise NotADirectoryInodeError(f"node {node} is not a directory")

    async def read_link(self, node: InodeNo) -> bytes:
        raise InvalidValueError(f"node {node} is not a symlink")

    async def list_xattrs(self, node: InodeNo) -> list[bytes]:
        return []

    async def get_xattr(self, node: InodeNo, name: bytes) -> bytes:
        raise NoXattrError(f"node {node} has no xattr")

    async def open(self, node: InodeNo) -> Opened:
        raise IsADirectoryInodeError(f"node {node} is not a regular file")

    async def read(
        self, node: InodeNo, handle: Handle, offset: int, size: int
    ) -> bytes | bytearray:
        raise IsADirectoryInodeError(f"node {node} is not a regular file")

    async def seek(self, node: InodeNo, offset: int, whence: int) -> int:
        raise IsADirectoryInodeError(f"node {node} is not a regular file")

    def release(self, node: InodeNo, handle: Handle) -> None:
        """Close nothing: it has opened nothing."""


def own_inode(
    node: InodeNo, mode: int, time_ns: int, size: int = 0, *, uid: int = -1, gid: int = -1
) -> Inode:
    """Return an inode that no engine knows.

    Args:
        node: Its number.
        mode: With its type.
        time_ns: All its times.
        size: Bytes of a file or symlink.
        uid: -1: that of the daemon.
        gid: Likewise.
    """
    new = NewInode(
        node,
        mode,
        os.geteuid() if uid < 0 else uid,
        os.getegid() if gid < 0 else gid,
        time_ns,
    )
    if stat.S_ISDIR(mode):
        return with_directory_size(new.as_inode(nlink=2))
    return new.as_inode(nlink=1)._replace(size=size, blocks=-(-size // BLOCK_BYTES))
