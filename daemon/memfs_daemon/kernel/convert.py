"""From the file system's replies to the bytes of the protocol.

Invariant: nothing here decides anything; each function is one pack of one reply.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from memfs.content.opening import OpenMode
from memfs_daemon.kernel import protocol

if TYPE_CHECKING:
    from memfs.filesystem.replies import Attributes, Entry, FilesystemStatistics, Opened
    from memfs.metadata.records import Inode

NANOSECONDS = 1_000_000_000
_FOREVER_S = 1 << 32
"""Where a validity is cut off: 136 years; the kernel's own arithmetic is safe with it."""
_BLOCK_BYTES = 4096
"""`st_blksize`: the unit that programs are told to read and write in."""
_RDEV_MASK = 0xFFFFFFFF
"""The kernel's 32-bit device numbers are the low half of glibc's `dev_t`."""

_FOPEN_FLAGS = {
    OpenMode.PASSTHROUGH: protocol.FOPEN_PASSTHROUGH,
    OpenMode.DIRECT: protocol.FOPEN_DIRECT_IO,
    OpenMode.CACHED: protocol.FOPEN_KEEP_CACHE,
}

_pack_attributes = protocol.ATTR_OUT.pack
_pack_entry = protocol.ENTRY_OUT.pack
_pack_opened = protocol.OPEN_OUT.pack


@lru_cache(maxsize=256)
def _validity(valid_s: float) -> tuple[int, int]:
    """Split a time to live into whole seconds and nanoseconds."""
    if valid_s >= _FOREVER_S:
        return _FOREVER_S, 0
    seconds = int(valid_s)
    return seconds, int((valid_s - seconds) * NANOSECONDS)


def pack_attributes(attributes: Attributes) -> bytes:
    """Return `struct fuse_attr_out`."""
    inode, valid_s = attributes
    seconds, nanoseconds = _validity(valid_s)
    atime_s, atime_ns = divmod(inode.atime_ns, NANOSECONDS)
    mtime_s, mtime_ns = divmod(inode.mtime_ns, NANOSECONDS)
    ctime_s, ctime_ns = divmod(inode.ctime_ns, NANOSECONDS)
    return _pack_attributes(
        seconds, nanoseconds, 0,
        inode.ino, inode.size, inode.blocks, atime_s, mtime_s, ctime_s,
        atime_ns, mtime_ns, ctime_ns, inode.mode, inode.nlink, inode.uid, inode.gid,
        inode.rdev & _RDEV_MASK, _BLOCK_BYTES, 0,
    )  # fmt: skip


def pack_inode_entry(
    inode: Inode, entry_valid_s: float, attributes_valid_s: float, node: int = 0
) -> bytes:
    """Return `struct fuse_entry_out`; `node` as of `Entry`.

    The generation is 0, as inode numbers are never reused; `Inode.generation` counts contents.
    """
    entry_s, entry_ns = _validity(entry_valid_s)
    valid_s, valid_ns = _validity(attributes_valid_s)
    atime_s, atime_ns = divmod(inode.atime_ns, NANOSECONDS)
    mtime_s, mtime_ns = divmod(inode.mtime_ns, NANOSECONDS)
    ctime_s, ctime_ns = divmod(inode.ctime_ns, NANOSECONDS)
    ino = inode.ino
    return _pack_entry(
        node or ino, 0, entry_s, valid_s, entry_ns, valid_ns,
        ino, inode.size, inode.blocks, atime_s, mtime_s, ctime_s,
        atime_ns, mtime_ns, ctime_ns, inode.mode, inode.nlink, inode.uid, inode.gid,
        inode.rdev & _RDEV_MASK, _BLOCK_BYTES, 0,
    )  # fmt: skip


def pack_entry(entry: Entry) -> bytes:
    """Return `struct fuse_entry_out`."""
    return pack_inode_entry(*entry)


def pack_opened(opened: Opened) -> bytes:
    """Return `struct fuse_open_out`."""
    handle, mode, backing = opened
    return _pack_opened(handle, _FOPEN_FLAGS[mode], backing)


def pack_statx(attributes: Attributes) -> bytes:
    """Return `struct fuse_statx_out`: the only reply that carries the birth time."""
    inode, valid_s = attributes
    seconds, nanoseconds = _validity(valid_s)
    rdev = inode.rdev
    return protocol.STATX_OUT.pack(
        seconds, nanoseconds, 0,
        protocol.STATX_BASIC_STATS_AND_BTIME, _BLOCK_BYTES, 0, inode.nlink, inode.uid, inode.gid,
        inode.mode, inode.ino, inode.size, inode.blocks, 0,
        *divmod(inode.atime_ns, NANOSECONDS), *divmod(inode.btime_ns, NANOSECONDS),
        *divmod(inode.ctime_ns, NANOSECONDS), *divmod(inode.mtime_ns, NANOSECONDS),
        os.major(rdev), os.minor(rdev), 0, 0,
    )  # fmt: skip


def pack_statistics(statistics: FilesystemStatistics) -> bytes:
    """Return `struct fuse_statfs_out`."""
    return protocol.STATFS_OUT.pack(
        statistics.blocks,
        statistics.blocks_free,
        statistics.blocks_available,
        statistics.files,
        statistics.files_free,
        statistics.block_bytes,
        statistics.name_bytes_max,
        statistics.block_bytes,
    )


@lru_cache(maxsize=256)
def pack_missing(valid_s: float) -> bytes:
    """Return the answer to LOOKUP of a missing name: node 0, to be believed for so long."""
    seconds, nanoseconds = _validity(valid_s)
    return _pack_entry(0, 0, seconds, 0, nanoseconds, 0, *(0,) * 16)


NO_ENTRY = bytes(protocol.ENTRY_OUT.size)
"""The entry of `.` and `..` in READDIRPLUS: with node 0 the kernel links nothing."""
