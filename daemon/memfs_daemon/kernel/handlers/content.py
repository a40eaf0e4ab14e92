"""Requests about open files and their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs_daemon.kernel.convert import pack_opened
from memfs_daemon.kernel.protocol import (
    COPY_FILE_RANGE_IN,
    COPY_FILE_RANGE_OUT,
    FALLOCATE_IN,
    FSYNC_DATA_ONLY,
    FSYNC_IN,
    HEADER_BYTES,
    LSEEK_IN,
    LSEEK_OUT,
    OPEN_IN,
    OPEN_KILL_SUIDGID,
    READ_IN,
    RELEASE_IN,
    REQUEST_BYTES_MAX,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_OUT,
)

if TYPE_CHECKING:
    from memfs.filesystem.operations import Operations
    from memfs_daemon.kernel.request import Payload, Request

_WRITE_DATA = HEADER_BYTES + WRITE_IN.size


class ContentHandlers:
    """Each method answers one opcode with the bytes of its reply."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def open(self, request: Request) -> bytes:
        """OPEN."""
        flags, open_flags = OPEN_IN.unpack_from(request.data, HEADER_BYTES)
        node = request.node
        kill = bool(open_flags & OPEN_KILL_SUIDGID)
        opened = await self._operations.open(request, node, flags, kill)
        request.opened = node, opened.handle
        return pack_opened(opened)

    async def release(self, request: Request) -> bytes:
        """RELEASE."""
        handle, _, _, _ = RELEASE_IN.unpack_from(request.data, HEADER_BYTES)
        self._operations.release(request.node, handle)
        return b""

    async def read(self, request: Request) -> Payload:
        """READ."""
        handle, offset, size, *_ = READ_IN.unpack_from(request.data, HEADER_BYTES)
        return await self._operations.read(
            request.node, handle, offset, min(size, REQUEST_BYTES_MAX)
        )

    async def write(self, request: Request) -> bytes:
        """WRITE; the data is a view of the request, not a copy."""
        handle, offset, size, flags, *_ = WRITE_IN.unpack_from(request.data, HEADER_BYTES)
        data = memoryview(request.data)[_WRITE_DATA : _WRITE_DATA + size]
        kill = bool(flags & WRITE_KILL_SUIDGID)
        written = await self._operations.write(request, request.node, handle, offset, data, kill)
        return WRITE_OUT.pack(written, 0)

    async def fsync(self, request: Request) -> bytes:
        """FSYNC."""
        _, flags, _ = FSYNC_IN.unpack_from(request.data, HEADER_BYTES)
        await self._operations.fsync(request, request.node, bool(flags & FSYNC_DATA_ONLY))
        return b""

    async def sync(self, request: Request) -> bytes:
        """SYNCFS."""
        await self._operations.sync()
        return b""

    async def allocate(self, request: Request) -> bytes:
        """FALLOCATE."""
        _, offset, length, mode, _ = FALLOCATE_IN.unpack_from(request.data, HEADER_BYTES)
        await self._operations.allocate(request.node, mode, offset, length)
        return b""

    async def seek(self, request: Request) -> bytes:
        """LSEEK."""
        _, offset, whence, _ = LSEEK_IN.unpack_from(request.data, HEADER_BYTES)
        found = await self._operations.seek(request, request.node, offset, whence)
        return LSEEK_OUT.pack(found)

    async def copy_range(self, request: Request) -> bytes:
        """COPY_FILE_RANGE."""
        return WRITE_OUT.pack(await self._copy(request), 0)

    async def copy_range_64(self, request: Request) -> bytes:
        """COPY_FILE_RANGE_64: as before, with room for counts of 4 GiB and more."""
        return COPY_FILE_RANGE_OUT.pack(await self._copy(request))

    async def _copy(self, request: Request) -> int:
        _, source_offset, target, _, target_offset, size, _ = COPY_FILE_RANGE_IN.unpack_from(
            request.data, HEADER_BYTES
        )
        return await self._operations.copy_range(
            request.node, source_offset, target, target_offset, size
        )
