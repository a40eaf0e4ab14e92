"""Requests that list directories.

Invariant: `.` has cookie 1 and `..` cookie 2; the cookies of `Operations` are larger, so an offset
says by itself where a listing goes on, and a listing needs no state.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from memfs_daemon.kernel.convert import NO_ENTRY, pack_inode_entry
from memfs_daemon.kernel.protocol import (
    DIRENT,
    ENTRY_OUT,
    HEADER_BYTES,
    OPEN_OUT,
    READ_IN,
    REQUEST_BYTES_MAX,
)

if TYPE_CHECKING:
    from memfs.filesystem.operations import Operations
    from memfs.types import InodeNo
    from memfs_daemon.kernel.request import Request

DOT_COOKIE, DOT_DOT_COOKIE = 1, 2

_DIRECTORY_TYPE = stat.S_IFDIR >> 12
_NAME_BYTES_LEAST = 8
"""Room that even a one-byte name takes, for it is padded to a multiple of 8."""
_DIRENT_BYTES_LEAST = DIRENT.size + _NAME_BYTES_LEAST
_PLUS_BYTES_LEAST = ENTRY_OUT.size + _DIRENT_BYTES_LEAST
_PADDING = tuple(bytes(-length % 8) for length in range(8))

_OPENED = OPEN_OUT.pack(0, 0, 0)

_pack_dirent = DIRENT.pack


class DirectoryHandlers:
    """Each method answers one opcode with the bytes of its reply."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def open(self, request: Request) -> bytes:
        """OPENDIR; without FOPEN_CACHE_DIR the kernel keeps no listing."""
        await self._operations.open_directory(request, request.node)
        return _OPENED

    async def release(self, _request: Request) -> bytes:
        """RELEASEDIR; a listing needs no state."""
        return b""

    async def list_names(self, request: Request) -> bytes:
        """READDIR."""
        _, offset, size, *_ = READ_IN.unpack_from(request.data, HEADER_BYTES)
        records = await self._dots(request.node, offset)
        room = min(size, REQUEST_BYTES_MAX) - sum(map(len, records))
        for entry in await self._operations.list_directory(
            request.node, _resume_at(offset), room // _DIRENT_BYTES_LEAST
        ):
            inode = entry.inode
            record = pack_dirent(inode.ino, entry.cookie, entry.name, inode.mode >> 12)
            room -= len(record)
            if room < 0:
                break
            records.append(record)
        return b"".join(records)

    async def list_plus(self, request: Request) -> bytes:
        """READDIRPLUS: each record is a whole LOOKUP reply, and the kernel counts it as one."""
        _, offset, size, *_ = READ_IN.unpack_from(request.data, HEADER_BYTES)
        records = [NO_ENTRY + record for record in await self._dots(request.node, offset)]
        room = min(size, REQUEST_BYTES_MAX) - sum(map(len, records))
        validity = self._operations.validity
        for entry in await self._operations.list_directory(
            request.node, _resume_at(offset), room // _PLUS_BYTES_LEAST
        ):
            inode = entry.inode
            record = pack_dirent(inode.ino, entry.cookie, entry.name, inode.mode >> 12)
            room -= ENTRY_OUT.size + len(record)
            if room < 0:
                break
            times_s = validity.name_s(inode), validity.attributes_s(inode)
            records.append(pack_inode_entry(inode, *times_s) + record)
        return b"".join(records)

    async def fsync(self, request: Request) -> bytes:
        """FSYNCDIR."""
        await self._operations.fsync_directory(request, request.node)
        return b""

    async def _dots(self, ino: InodeNo, offset: int) -> list[bytes]:
        if offset >= DOT_DOT_COOKIE:
            return []
        parent = await self._operations.get_parent(ino)
        records = [pack_dirent(parent, DOT_DOT_COOKIE, b"..", _DIRECTORY_TYPE)]
        if offset < DOT_COOKIE:
            records.insert(0, pack_dirent(ino, DOT_COOKIE, b".", _DIRECTORY_TYPE))
        return records


def pack_dirent(ino: InodeNo, cookie: int, name: bytes, file_type: int) -> bytes:
    """Return `struct fuse_dirent` with its name and padding; `file_type` as in readdir(3)."""
    length = len(name)
    return _pack_dirent(ino, cookie, length, file_type) + name + _PADDING[length % 8]


def _resume_at(offset: int) -> int:
    """Return the cookie for `Operations.list_directory`, which knows nothing of dots."""
    return offset if offset > DOT_DOT_COOKIE else 0
