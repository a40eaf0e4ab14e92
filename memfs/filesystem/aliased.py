"""A mounted tree whose files may have further node numbers.

The kernel takes one backing file of a node at a time. A file that was rewritten elsewhere while a
program here has its former bytes open is found by another number (`nodes.nodes_of`), with the same
inode number for programs. By either number it is the same file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.filesystem.mounted import MountedTree
from memfs.filesystem.nodes import is_alias, number_of

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from memfs.content.opening import Handle
    from memfs.filesystem.operations import Caller
    from memfs.filesystem.replies import Attributes, Opened
    from memfs.types import InodeNo


def _inode_of(node: InodeNo) -> InodeNo:
    return number_of(node) if is_alias(node) else node


class AliasedTree(MountedTree):
    """Implements `operations.Operations`; the live file system opens files by their nodes."""

    def get_attributes(self, ino: InodeNo) -> Coroutine[Any, Any, Attributes]:
        """GETATTR, STATX."""
        return super().get_attributes(_inode_of(ino))

    def get_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> Coroutine[Any, Any, bytes]:
        """GETXATTR."""
        return super().get_xattr(caller, _inode_of(ino), name)

    def list_xattrs(self, caller: Caller, ino: InodeNo) -> Coroutine[Any, Any, list[bytes]]:
        """LISTXATTR."""
        return super().list_xattrs(caller, _inode_of(ino))

    def seek(
        self, caller: Caller, ino: InodeNo, offset: int, whence: int
    ) -> Coroutine[Any, Any, int]:
        """LSEEK."""
        return super().seek(caller, _inode_of(ino), offset, whence)

    def fsync(self, caller: Caller, ino: InodeNo, data_only: bool) -> Coroutine[Any, Any, None]:
        """FSYNC."""
        return super().fsync(caller, _inode_of(ino), data_only)

    def open(
        self, caller: Caller, ino: InodeNo, flags: int, kill_suidgid: bool = False
    ) -> Coroutine[Any, Any, Opened]:
        """OPEN."""
        if is_alias(ino):
            return self._live.open(caller, ino, flags, kill_suidgid)
        return super().open(caller, ino, flags, kill_suidgid)

    def release(self, ino: InodeNo, handle: Handle) -> None:
        """RELEASE."""
        if is_alias(ino):
            self._live.release(ino, handle)
        else:
            super().release(ino, handle)

    def read(
        self, ino: InodeNo, handle: Handle, offset: int, size: int
    ) -> Coroutine[Any, Any, bytes | bytearray]:
        """READ."""
        if is_alias(ino):
            return self._live.read(ino, handle, offset, size)
        return super().read(ino, handle, offset, size)
