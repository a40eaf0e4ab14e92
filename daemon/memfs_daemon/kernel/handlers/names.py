"""Requests about dentries: look up, make, link, move, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.errors import StaleInodeError
from memfs_daemon.kernel.convert import pack_entry, pack_inode_entry, pack_missing, pack_opened
from memfs_daemon.kernel.protocol import (
    BATCH_FORGET_IN,
    CREATE_IN,
    FORGET_ONE,
    HEADER_BYTES,
    LINK_IN,
    MKDIR_IN,
    MKNOD_IN,
    RENAME2_IN,
    RENAME_IN,
)

if TYPE_CHECKING:
    from memfs.filesystem.operations import Operations
    from memfs.filesystem.replies import Entry, Opened
    from memfs.types import InodeNo
    from memfs_daemon.kernel.request import Request

_CREATE_NAME = HEADER_BYTES + CREATE_IN.size
_MKNOD_NAME = HEADER_BYTES + MKNOD_IN.size
_MKDIR_NAME = HEADER_BYTES + MKDIR_IN.size
_RENAME_NAMES = HEADER_BYTES + RENAME_IN.size
_RENAME2_NAMES = HEADER_BYTES + RENAME2_IN.size
_LINK_NAME = HEADER_BYTES + LINK_IN.size
_FORGET_LIST = HEADER_BYTES + BATCH_FORGET_IN.size


_DOTS = (b".", b"..")
"""Asked for by number of inode where EXPORT_SUPPORT was agreed on (fs/fuse/inode.c)."""


class NameHandlers:
    """Each method answers one opcode with the bytes of its reply.

    Names in requests end in a NUL byte, which is cut off.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def lookup(self, request: Request) -> bytes:
        """LOOKUP; a missing name is an answer that the kernel keeps, not an error."""
        name = request.data[HEADER_BYTES:-1]
        if name in _DOTS:
            return await self._lookup_dots(request.node, name)
        entry = await self._operations.lookup(request.node, name, request)
        if entry is None:
            return pack_missing(self._operations.validity.missing_s(request.node))
        return pack_entry(entry)

    async def _lookup_dots(self, node: InodeNo, name: bytes) -> bytes:
        """Answer open_by_handle_at(2) for an inode that the kernel has forgotten."""
        if name == b"..":
            node = await self._operations.get_parent(node)
        inode, valid_s = await self._operations.get_attributes(node)
        if not inode.nlink:
            raise StaleInodeError(f"inode {node} was removed")
        return pack_inode_entry(inode, self._operations.validity.name_s(inode), valid_s)

    async def create(self, request: Request) -> bytes:
        """CREATE."""
        flags, mode, request.umask, _ = CREATE_IN.unpack_from(request.data, HEADER_BYTES)
        name = request.data[_CREATE_NAME:-1]
        return _created(
            request, await self._operations.create(request, request.node, name, mode, flags)
        )

    async def create_unnamed(self, request: Request) -> bytes:
        """TMPFILE."""
        flags, mode, request.umask, _ = CREATE_IN.unpack_from(request.data, HEADER_BYTES)
        return _created(
            request, await self._operations.create_unnamed(request, request.node, mode, flags)
        )

    async def make_node(self, request: Request) -> bytes:
        """MKNOD."""
        mode, rdev, request.umask, _ = MKNOD_IN.unpack_from(request.data, HEADER_BYTES)
        name = request.data[_MKNOD_NAME:-1]
        return pack_entry(await self._operations.make_node(request, request.node, name, mode, rdev))

    async def make_directory(self, request: Request) -> bytes:
        """MKDIR."""
        mode, request.umask = MKDIR_IN.unpack_from(request.data, HEADER_BYTES)
        name = request.data[_MKDIR_NAME:-1]
        return pack_entry(await self._operations.make_directory(request, request.node, name, mode))

    async def make_symlink(self, request: Request) -> bytes:
        """SYMLINK."""
        name, target, _ = request.data[HEADER_BYTES:].split(b"\0")
        return pack_entry(await self._operations.make_symlink(request, request.node, name, target))

    async def read_link(self, request: Request) -> bytes:
        """READLINK."""
        return await self._operations.read_link(request.node)

    async def link(self, request: Request) -> bytes:
        """LINK."""
        (ino,) = LINK_IN.unpack_from(request.data, HEADER_BYTES)
        return pack_entry(
            await self._operations.link(ino, request.node, request.data[_LINK_NAME:-1])
        )

    async def unlink(self, request: Request) -> bytes:
        """UNLINK."""
        await self._operations.unlink(request.node, request.data[HEADER_BYTES:-1])
        await self._operations.give_back()
        return b""

    async def remove_directory(self, request: Request) -> bytes:
        """RMDIR."""
        await self._operations.remove_directory(request.node, request.data[HEADER_BYTES:-1])
        return b""

    async def rename(self, request: Request) -> bytes:
        """RENAME."""
        (new_parent,) = RENAME_IN.unpack_from(request.data, HEADER_BYTES)
        name, new_name, _ = request.data[_RENAME_NAMES:].split(b"\0")
        await self._operations.rename(request.node, name, new_parent, new_name, 0)
        await self._operations.give_back()
        return b""

    async def rename_with_flags(self, request: Request) -> bytes:
        """RENAME2."""
        new_parent, flags, _ = RENAME2_IN.unpack_from(request.data, HEADER_BYTES)
        name, new_name, _ = request.data[_RENAME2_NAMES:].split(b"\0")
        await self._operations.rename(request.node, name, new_parent, new_name, flags)
        await self._operations.give_back()
        return b""

    def forget(self, request: Request) -> None:
        """FORGET; no reply."""
        self._operations.forget((request.node,))

    def forget_batch(self, request: Request) -> None:
        """BATCH_FORGET; no reply."""
        count, _ = BATCH_FORGET_IN.unpack_from(request.data, HEADER_BYTES)
        items = request.data[_FORGET_LIST : _FORGET_LIST + count * FORGET_ONE.size]
        self._operations.forget([ino for ino, _ in FORGET_ONE.iter_unpack(items)])


def _created(request: Request, reply: tuple[Entry, Opened]) -> bytes:
    entry, opened = reply
    request.opened = entry.inode.ino, opened.handle
    return pack_entry(entry) + pack_opened(opened)
