"""Requests about inodes: attributes and extended attributes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from memfs.errors import BufferTooSmallError, TooBigError
from memfs.filesystem.operations import CAPABILITY_XATTR, NOW_NS, AttributeRequest
from memfs.types import XATTR_VALUE_BYTES_MAX
from memfs_daemon.kernel.convert import (
    NANOSECONDS,
    pack_attributes,
    pack_statistics,
    pack_statx,
)
from memfs_daemon.kernel.protocol import (
    GETXATTR_IN,
    GETXATTR_OUT,
    HEADER_BYTES,
    SETATTR_IN,
    SETXATTR_ACL_KILL_SGID,
    SETXATTR_IN,
    SETXATTR_IN_COMPAT,
    SetattrField,
)

if TYPE_CHECKING:
    from memfs.filesystem.operations import Operations
    from memfs_daemon.kernel.request import Request

# Plain ints: testing a bit of an IntFlag makes a new enum member's lookup for each request.
_MODE, _UID, _GID, _SIZE = (
    int(field)
    for field in (SetattrField.MODE, SetattrField.UID, SetattrField.GID, SetattrField.SIZE)
)
_ATIME, _MTIME, _CTIME = (
    int(field) for field in (SetattrField.ATIME, SetattrField.MTIME, SetattrField.CTIME)
)
_ATIME_NOW, _MTIME_NOW = int(SetattrField.ATIME_NOW), int(SetattrField.MTIME_NOW)
_KILL_SUIDGID = int(SetattrField.KILL_SUIDGID)
_NO_FIELDS = int(SetattrField.FH | SetattrField.LOCKOWNER)
"""Bits that say who asks, and ask for nothing."""
_GETXATTR_NAME = HEADER_BYTES + GETXATTR_IN.size


class AttributeHandlers:
    """Each method answers one opcode with the bytes of its reply.

    Args:
        operations: What serves the requests.
        extended_setxattr: True if SETXATTR_EXT was agreed on, which lengthens SETXATTR.
    """

    def __init__(self, operations: Operations, *, extended_setxattr: bool) -> None:
        self._operations = operations
        self._setxattr_in = SETXATTR_IN if extended_setxattr else SETXATTR_IN_COMPAT

    async def get_attributes(self, request: Request) -> bytes:
        """GETATTR."""
        return pack_attributes(await self._operations.get_attributes(request.node))

    async def get_statx(self, request: Request) -> bytes:
        """STATX; the kernel sends it to who asks for the birth time."""
        return pack_statx(await self._operations.get_attributes(request.node))

    async def set_attributes(self, request: Request) -> bytes:
        """SETATTR."""
        changes = parse_attribute_request(request.data)
        return pack_attributes(
            await self._operations.set_attributes(request, request.node, changes)
        )

    async def get_xattr(self, request: Request) -> bytes | int:
        """GETXATTR; the kernel asks for capabilities before the first write to an inode."""
        name = request.data[_GETXATTR_NAME:-1]
        if name == CAPABILITY_XATTR and self._operations.lacks_capability(request.node):
            # As the exception would be answered, which takes half of such a request's time.
            return errno.ENODATA
        size, _ = GETXATTR_IN.unpack_from(request.data, HEADER_BYTES)
        return _fit(await self._operations.get_xattr(request, request.node, name), size)

    async def list_xattrs(self, request: Request) -> bytes:
        """LISTXATTR."""
        size, _ = GETXATTR_IN.unpack_from(request.data, HEADER_BYTES)
        names = await self._operations.list_xattrs(request, request.node)
        value = b"".join(name + b"\0" for name in names)
        if len(value) > XATTR_VALUE_BYTES_MAX:
            # E2BIG is what listxattr(2) says for a list beyond XATTR_LIST_MAX.
            raise TooBigError(f"inode {request.node}: list of xattrs takes {len(value)} bytes")
        return _fit(value, size)

    async def set_xattr(self, request: Request) -> bytes:
        """SETXATTR."""
        data = request.data
        size, flags, *extension = self._setxattr_in.unpack_from(data, HEADER_BYTES)
        kill_sgid = bool(extension and extension[0] & SETXATTR_ACL_KILL_SGID)
        begin = HEADER_BYTES + self._setxattr_in.size
        end = data.index(b"\0", begin)
        value = data[end + 1 : end + 1 + size]
        await self._operations.set_xattr(
            request, request.node, data[begin:end], value, flags, kill_sgid
        )
        return b""

    async def remove_xattr(self, request: Request) -> bytes:
        """REMOVEXATTR."""
        await self._operations.remove_xattr(request, request.node, request.data[HEADER_BYTES:-1])
        return b""

    async def get_statistics(self, _request: Request) -> bytes:
        """STATFS."""
        return pack_statistics(await self._operations.statistics())


def parse_attribute_request(data: bytes) -> AttributeRequest:
    """Read SETATTR (`struct fuse_setattr_in`).

    Under HANDLE_KILLPRIV_V2 the kernel leaves setuid and setgid to the daemon. Before it passes a
    write through to a file that has them, it sends a SETATTR that names no field at all.

    Args:
        data: The whole request with its header.
    """
    (
        valid, _, _, size, _, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        mode, _, uid, gid, _,
    ) = SETATTR_IN.unpack_from(data, HEADER_BYTES)  # fmt: skip
    atime: int | None = None
    mtime: int | None = None
    if valid & _ATIME:
        atime = NOW_NS if valid & _ATIME_NOW else atime_s * NANOSECONDS + atime_ns
    if valid & _MTIME:
        mtime = NOW_NS if valid & _MTIME_NOW else mtime_s * NANOSECONDS + mtime_ns
    return AttributeRequest(
        mode=mode if valid & _MODE else None,
        uid=uid if valid & _UID else None,
        gid=gid if valid & _GID else None,
        size=size if valid & _SIZE else None,
        atime_ns=atime,
        mtime_ns=mtime,
        ctime_ns=ctime_s * NANOSECONDS + ctime_ns if valid & _CTIME else None,
        kill_suidgid=bool(valid & _KILL_SUIDGID) or not valid & ~_NO_FIELDS,
    )


def _fit(value: bytes, size: int) -> bytes:
    """Answer getxattr(2) or listxattr(2) with a buffer of `size` bytes; 0 asks for the length."""
    if size == 0:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise BufferTooSmallError(f"{len(value)} bytes into a buffer of {size}")
    return value
