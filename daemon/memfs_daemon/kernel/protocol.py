"""The FUSE wire protocol: opcodes, flags and structure layouts of `linux/fuse.h`, 7.31 to 7.45.

Invariant: each layout has the size and the offsets of its C structure (little endian, which every
machine that memfs supports is); `tests/unit/test_kernel_protocol.py` compares them with the header.
Node ids, offsets and sizes of files are read with a sign, though the header has no sign: the
kernel's own are signed (`loff_t`), and no inode has a number of 64 bits.

Source: include/uapi/linux/fuse.h of Linux 6.18.
"""

from __future__ import annotations

import enum
from struct import Struct

MAJOR = 7
MINOR = 45
"""The newest minor version whose layouts are below."""
MINOR_MIN = 31
"""Linux 5.4: the oldest protocol served; before it NO_OPENDIR_SUPPORT and others are missing."""


class Opcode(enum.IntEnum):
    """What a request asks for (`enum fuse_opcode`)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class InitFlag(enum.IntFlag):
    """What kernel and daemon agree on in INIT; bits 32 and up travel in `flags2`."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39


class SetattrField(enum.IntFlag):
    """`fuse_setattr_in.valid`: which fields are asked for."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_PASSTHROUGH = 1 << 7

OPEN_KILL_SUIDGID = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
FSYNC_DATA_ONLY = 1 << 0
SETXATTR_ACL_KILL_SGID = 1 << 0

STATX_BASIC_STATS_AND_BTIME = 0xFFF
"""Mask of what a STATX reply fills: STATX_BASIC_STATS (0x7ff) and STATX_BTIME (0x800), statx(2)."""

HEADER_BYTES = 40
"""`struct fuse_in_header` before every request's own structure."""
REPLY_HEADER_BYTES = 16
"""`struct fuse_out_header` before every reply's own structure."""
WRITE_OVERHEAD_BYTES = 4096
"""Room beside the data of the largest WRITE; the kernel asks for 80."""
REQUEST_BYTES_MAX = 65535 * 4096
"""Largest READ or listing that a kernel can ask for: its `max_pages` has 16 bits."""
READ_BUFFER_BYTES_MIN = 8192
"""Least buffer for a read of the device (FUSE_MIN_READ_BUFFER)."""

HEADER = Struct("<IIQqIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""
REPLY_HEADER = Struct("<IiQ")
"""len, error (0 or negative errno), unique."""

INIT_IN = Struct("<IIII")
"""major, minor, max_readahead, flags: what every kernel sends; `INIT_IN_FLAGS2` may follow."""
INIT_IN_FLAGS2 = Struct("<I")
INIT_OUT = Struct("<IIIIHHIIHHIIH22x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
max_pages, map_alignment, flags2, max_stack_depth, request_timeout."""

ATTR_FORMAT = "QQQqqqIIIIIIIIII"
ATTR = Struct("<" + ATTR_FORMAT)
"""ino, size, blocks, atime, mtime, ctime, three nanoseconds, mode, nlink, uid, gid, rdev, blksize,
flags."""
ATTR_OUT = Struct("<QII" + ATTR_FORMAT)
"""attr_valid, attr_valid_nsec, dummy, attr."""
ENTRY_OUT = Struct("<QQQQII" + ATTR_FORMAT)
"""nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr."""
DIRENT = Struct("<QQII")
"""ino, off, namelen, type; the name follows, padded to 8 bytes."""

STATX_OUT = Struct("<QII16x" + "IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII112x")
"""attr_valid, attr_valid_nsec, flags; mask, blksize, attributes, nlink, uid, gid, mode, ino, size,
blocks, attributes_mask; atime, btime, ctime, mtime as seconds and nanoseconds; rdev_major,
rdev_minor, dev_major, dev_minor."""

FORGET_IN = Struct("<Q")
BATCH_FORGET_IN = Struct("<II")
"""count, dummy; `FORGET_ONE` follows count times."""
FORGET_ONE = Struct("<qQ")
"""nodeid, nlookup."""
SETATTR_IN = Struct("<IIQqQqqqIIIIIIII")
"""valid, padding, fh, size, lock_owner, atime, mtime, ctime, three nanoseconds, mode, unused, uid,
gid, unused."""
MKNOD_IN = Struct("<IIII")
"""mode, rdev, umask, padding."""
MKDIR_IN = Struct("<II")
"""mode, umask."""
RENAME_IN = Struct("<q")
RENAME2_IN = Struct("<qII")
"""newdir, flags, padding."""
LINK_IN = Struct("<q")
OPEN_IN = Struct("<II")
"""flags, open_flags."""
CREATE_IN = Struct("<IIII")
"""flags, mode, umask, open_flags."""
OPEN_OUT = Struct("<QIi")
"""fh, open_flags, backing_id."""
READ_IN = Struct("<QqIIQII")
"""fh, offset, size, read_flags, lock_owner, flags, padding; READDIR and READDIRPLUS too."""
WRITE_IN = Struct("<QqIIQII")
"""fh, offset, size, write_flags, lock_owner, flags, padding."""
WRITE_OUT = Struct("<II")
"""size, padding."""
RELEASE_IN = Struct("<QIIQ")
"""fh, flags, release_flags, lock_owner."""
FSYNC_IN = Struct("<QII")
"""fh, fsync_flags, padding."""
STATFS_OUT = Struct("<QQQQQIII28x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize."""
SETXATTR_IN = Struct("<IIII")
"""size, flags, setxattr_flags, padding: with SETXATTR_EXT."""
SETXATTR_IN_COMPAT = Struct("<II")
"""size, flags."""
GETXATTR_IN = Struct("<II")
"""size, padding; LISTXATTR too."""
GETXATTR_OUT = Struct("<II")
"""size, padding: when the caller asks with size 0."""
INTERRUPT_IN = Struct("<Q")
FALLOCATE_IN = Struct("<QqqII")
"""fh, offset, length, mode, padding."""
LSEEK_IN = Struct("<QqII")
"""fh, offset, whence, padding."""
LSEEK_OUT = Struct("<Q")
COPY_FILE_RANGE_IN = Struct("<QqqQqQQ")
"""fh_in, off_in, nodeid_out, fh_out, off_out, len, flags."""
COPY_FILE_RANGE_OUT = Struct("<Q")
"""bytes_copied: the reply to COPY_FILE_RANGE_64."""

NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_DELETE, NOTIFY_INC_EPOCH = 2, 3, 6, 8
"""`enum fuse_notify_code`: the error field of a message that answers no request."""
MINOR_INC_EPOCH = 44
"""Linux 6.16: the first protocol with NOTIFY_INC_EPOCH, which has no structure."""
NOTIFY_INVAL_INODE_OUT = Struct("<Qqq")
"""ino, off, len; a negative offset: the attributes alone, no pages; a length of 0: all pages from
there on (fs/fuse/inode.c, fuse_reverse_inval_inode)."""
NOTIFY_INVAL_ENTRY_OUT = Struct("<QII")
"""parent, namelen, flags; the name follows, and a NUL byte that `namelen` does not count."""
NOTIFY_DELETE_OUT = Struct("<QQII")
"""parent, child, namelen, padding; the name follows likewise."""

BACKING_MAP = Struct("<iIQ")
"""fd, flags, padding: the argument of DEV_IOC_BACKING_OPEN."""
BACKING_ID = Struct("<I")


def _write_ioctl(number: int, argument_bytes: int) -> int:
    """`_IOW(FUSE_DEV_IOC_MAGIC, number, ...)` of asm-generic/ioctl.h."""
    magic, direction_write = 229, 1
    return direction_write << 30 | argument_bytes << 16 | magic << 8 | number


DEV_IOC_BACKING_OPEN = _write_ioctl(1, BACKING_MAP.size)
DEV_IOC_BACKING_CLOSE = _write_ioctl(2, BACKING_ID.size)
