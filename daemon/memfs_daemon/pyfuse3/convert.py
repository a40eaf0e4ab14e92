"""From the file system's replies to pyfuse3's objects, and file handles that say all there is.

Invariant: nothing here decides anything.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, NamedTuple

import pyfuse3

from memfs.content.opening import Handle, OpenMode
from memfs.filesystem.nodes import LIVE_MAX
from memfs.types import InodeNo

if TYPE_CHECKING:
    from memfs.filesystem.replies import FilesystemStatistics, Opened
    from memfs.metadata.records import Inode

BLOCK_BYTES = 128 << 10
"""`st_blksize`, the buffer of stdio(3) and of Python's files: each write is a round trip here."""

_HANDLE_BITS = 7
_HANDLE_MASK = (1 << _HANDLE_BITS) - 1
_CLEARING_BIT = 1 << _HANDLE_BITS
_INODE_SHIFT = _HANDLE_BITS + 1
_LARGE_BIT = 1 << 63
"""Set in no number that `pack_open_file` makes: inodes of the live tree have 48 bits."""


class OpenFile(NamedTuple):
    """What the number of an open file says; pyfuse3 gives READ and WRITE nothing else."""

    ino: InodeNo
    handle: Handle
    clearing: bool
    """A write clears setuid and setgid (write(2)), which the kernel does in other modes."""


class OpenFiles:
    """Numbers of open files: they say all there is, but where a node number leaves no room.

    That is so inside of `.memfs`: such files are remembered while they are open.
    """

    def __init__(self) -> None:
        self._large: dict[int, OpenFile] = {}
        self._serials = itertools.count(1)

    def to_file_info(self, ino: InodeNo, opened: Opened, *, privileged: bool) -> pyfuse3.FileInfo:
        """Return an open file; whatever its mode, the daemon serves the bytes.

        The kernel clears setuid and setgid before cached writes, by the capabilities of the writer.
        It does not before direct ones, and WRITE does not say who writes: there the opener decides.
        """
        cached = opened.mode is OpenMode.CACHED
        clearing = not (cached or privileged)
        if ino <= LIVE_MAX:
            fh = pack_open_file(ino, opened.handle, clearing=clearing)
        else:
            fh = pyfuse3.FileHandleT(_LARGE_BIT | next(self._serials))
            self._large[fh] = OpenFile(ino, opened.handle, clearing)
        return pyfuse3.FileInfo(fh=fh, direct_io=not cached, keep_cache=cached)

    def find(self, fh: int) -> OpenFile:
        """Return what an open file is."""
        return self._large[fh] if fh & _LARGE_BIT else unpack_open_file(fh)

    def take(self, fh: int) -> OpenFile:
        """Do as `find`; the file is closed."""
        return self._large.pop(fh) if fh & _LARGE_BIT else unpack_open_file(fh)


def pack_open_file(ino: InodeNo, handle: Handle, *, clearing: bool) -> pyfuse3.FileHandleT:
    """Return the number of an open file: inode, clearing bit, 7 bits of handle."""
    assert 0 <= handle <= _HANDLE_MASK, f"handle {handle} does not fit"
    number = ino << _INODE_SHIFT | handle
    return pyfuse3.FileHandleT(number | _CLEARING_BIT if clearing else number)


def unpack_open_file(fh: int) -> OpenFile:
    """Undo `pack_open_file`."""
    return OpenFile(
        InodeNo(fh >> _INODE_SHIFT), Handle(fh & _HANDLE_MASK), bool(fh & _CLEARING_BIT)
    )


def to_entry(
    inode: Inode, entry_valid_s: float, attributes_valid_s: float, _node: int = 0
) -> pyfuse3.EntryAttributes:
    """Return a dentry's attributes; there are no aliases where nothing is passed through.

    The generation stays 0, as inode numbers are never reused; `Inode.generation` counts contents.
    """
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(inode.ino)
    entry.entry_timeout = entry_valid_s
    entry.attr_timeout = attributes_valid_s
    entry.st_mode = pyfuse3.ModeT(inode.mode)
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blksize = BLOCK_BYTES
    entry.st_blocks = inode.blocks
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry


def to_attributes(inode: Inode, valid_s: float) -> pyfuse3.EntryAttributes:
    """Return an inode's attributes, where no dentry is asked for."""
    return to_entry(inode, 0.0, valid_s)


def missing_entry(valid_s: float) -> pyfuse3.EntryAttributes:
    """Return the answer to LOOKUP of a missing name, which the kernel keeps: inode 0."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = valid_s
    return entry


def to_statistics(statistics: FilesystemStatistics) -> pyfuse3.StatvfsData:
    """Return what statvfs(3) shows."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = statistics.block_bytes
    data.f_blocks = statistics.blocks
    data.f_bfree = statistics.blocks_free
    data.f_bavail = statistics.blocks_available
    data.f_files = statistics.files
    data.f_ffree = data.f_favail = statistics.files_free
    data.f_namemax = statistics.name_bytes_max
    return data


def is_truncating(flags: int) -> bool:
    """Return True for open(2) flags that empty the file."""
    return bool(flags & os.O_TRUNC)
