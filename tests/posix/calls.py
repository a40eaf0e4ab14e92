"""System calls that Python's os module lacks, by way of the C library.

Invariant: a failing call raises OSError with the C library's errno, like the os module's functions.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_COLLAPSE_RANGE = 0x08
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_INSERT_RANGE = 0x20

STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
STATX_MTIME = 0x40

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

SYNC_FILE_RANGE_WAIT_BEFORE = 1
SYNC_FILE_RANGE_WRITE = 2
SYNC_FILE_RANGE_WAIT_AFTER = 4

F_OFD_GETLK = 36
F_OFD_SETLK = 37
F_OFD_SETLKW = 38

_SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[os.uname().machine]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Times(NamedTuple):
    """What statx(2) tells about times that stat(2) does not."""

    mask: int
    """`STATX_*` bits that the file system filled."""
    btime_ns: int
    """Time of birth; meaningful only with `STATX_BTIME` in the mask."""


class RawDirent(NamedTuple):
    """One record of getdents64(2)."""

    inode: int
    offset: int
    """Position after this record: what lseek(2) goes back to."""
    type: int
    """`DT_*`, as in dirent.h."""
    name: bytes


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(source: Path, target: Path, flags: int) -> None:
    """Rename with flags, see man page renameat2."""
    _check(
        _libc.renameat2(
            AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
        )
    )


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Treat bytes `[offset, offset + length)` as the man page of fallocate says."""
    _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def sync_file_range(fd: int, offset: int, length: int, flags: int) -> None:
    """Write a range back as its man page says."""
    _check(
        _libc.sync_file_range(
            fd, ctypes.c_long(offset), ctypes.c_long(length), ctypes.c_uint(flags)
        )
    )


def syncfs(fd: int) -> None:
    """Sync the file system that `fd` is on."""
    _check(_libc.syncfs(fd))


def link_fd(fd: int, target: Path) -> None:
    """Give a file without a name one: linkat(2) of its entry in /proc."""
    _check(
        _libc.linkat(
            AT_FDCWD,
            f"/proc/self/fd/{fd}".encode(),
            AT_FDCWD,
            os.fsencode(target),
            AT_SYMLINK_FOLLOW,
        )
    )


def utimens(
    path: Path, atime: tuple[int, int], mtime: tuple[int, int], *, follow: bool = True
) -> None:
    """Set times by utimensat(2); they are (seconds, nanoseconds or `UTIME_NOW` or `UTIME_OMIT`)."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    flags = 0 if follow else AT_SYMLINK_NOFOLLOW
    _check(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags))


def statx_times(path: Path) -> Times:
    """statx(2), asked for everything."""
    buffer = ctypes.create_string_buffer(256)
    _check(
        _libc.statx(
            AT_FDCWD,
            os.fsencode(path),
            AT_SYMLINK_NOFOLLOW,
            ctypes.c_uint(STATX_BASIC_STATS | STATX_BTIME),
            buffer,
        )
    )
    # struct statx in linux/stat.h: stx_mask at 0, stx_btime (s64 seconds, u32 nanoseconds) at 80.
    (mask,) = struct.unpack_from("=I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 80)
    return Times(mask, seconds * 10**9 + nanoseconds)


def mtime_alone(path: Path) -> int:
    """statx(2), asked for the mtime and for nothing else; nanoseconds."""
    buffer = ctypes.create_string_buffer(256)
    _check(
        _libc.statx(
            AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, ctypes.c_uint(STATX_MTIME), buffer
        )
    )
    # struct statx in linux/stat.h: stx_mtime (s64 seconds, u32 nanoseconds) at 112.
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 112)
    return int(seconds * 10**9 + nanoseconds)


def getdents(fd: int, buffer_bytes: int = 32768) -> Iterator[RawDirent]:
    """The records from the directory's current position to its end, by getdents64(2)."""
    buffer = ctypes.create_string_buffer(buffer_bytes)
    while count := _check(_libc.syscall(_SYS_GETDENTS64, fd, buffer, buffer_bytes)):
        # struct linux_dirent64: ino u64, off s64, reclen u16, type u8, name.
        position = 0
        while position < count:
            inode, offset, length, kind = struct.unpack_from("=QqHB", buffer, position)
            name = buffer.raw[position + 19 : position + length].split(b"\0", 1)[0]
            yield RawDirent(inode, offset, kind, name)
            position += length


def name_to_handle(path: Path) -> bytes:
    """name_to_handle_at(2); the `struct file_handle` that open_by_handle_at(2) takes."""
    room = 128
    buffer = ctypes.create_string_buffer(8 + room)
    struct.pack_into("=Ii", buffer, 0, room, 0)
    mount = ctypes.c_int()
    _check(_libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), 0))
    (length,) = struct.unpack_from("=I", buffer, 0)
    return buffer.raw[: 8 + length]


def open_by_handle(mount_fd: int, handle: bytes, flags: int) -> int:
    """open_by_handle_at(2); needs CAP_DAC_READ_SEARCH."""
    return _check(_libc.open_by_handle_at(mount_fd, handle, flags))
