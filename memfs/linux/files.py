"""System calls on files that Python's `os` lacks, or that take several of its calls.

Invariant: no function keeps a descriptor.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import fcntl
import os
import signal
import stat
import struct

from memfs.linux.libc import LIBC, last_error

_FICLONE = 0x40049409
"""`_IOW(0x94, 9, int)` in linux/fs.h."""

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
"""`FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` in linux/fs.h."""
_TOP_DIRECTORY = 0x20000
"""`FS_TOPDIR_FL` in linux/fs.h."""
_FLAGS = struct.Struct("@l")

_CANNOT_SHARE = frozenset(
    {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
)
"""How file systems say that these files share no blocks (ioctl_ficlone(2)); others are failures."""

_lseek = LIBC.lseek64
_lseek.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int)
_lseek.restype = ctypes.c_int64
_fallocate = LIBC.fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = LIBC.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_WRITE_AND_WAIT = 7
"""linux/fs.h"""
_syncfs = LIBC.syncfs
_syncfs.argtypes = (ctypes.c_int,)


class NotPlainError(OSError):
    """A pipe, a device, a socket or a directory has the name of a plain file."""


def open_regular(
    path: str | os.PathLike[str],
    flags: int,
    mode: int = 0o600,
    *,
    dir_fd: int | None = None,
    follows: bool = False,
) -> int:
    """Open a plain file, and nothing else that has its name meanwhile.

    A pipe in its place would keep the caller waiting for ever, and a device may give bytes for
    ever. A lease is waited for, as in open(2).

    Args:
        path: Where the file is.
        flags: As of open(2); O_CLOEXEC and O_NONBLOCK are added, which change nothing of such a
            file, and O_NOFOLLOW.
        mode: That of a new file.
        dir_fd: What a relative path begins at; None: the working directory.
        follows: It may be a symbolic link, as in /proc/self/fd.

    Raises:
        NotPlainError: Something else is there.
        OSError: As of open(2).
    """
    return open_known(path, flags, mode, dir_fd=dir_fd, follows=follows)[0]


def open_known(
    path: str | os.PathLike[str],
    flags: int,
    mode: int = 0o600,
    *,
    dir_fd: int | None = None,
    follows: bool = False,
) -> tuple[int, os.stat_result]:
    """Open a plain file as `open_regular`, and return its attributes as of then as well."""
    safe = os.O_CLOEXEC | os.O_NONBLOCK | (0 if follows else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags | safe, mode, dir_fd=dir_fd)
    except BlockingIOError:
        # A lease breaks (fcntl(2)), which only plain files have.
        fd = _open_leased(path, flags, safe & ~os.O_NONBLOCK, dir_fd)
        return fd, os.fstat(fd)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _not_plain(path) from None
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise _not_plain(path)
    return fd, status


def _open_leased(path: str | os.PathLike[str], flags: int, safe: int, dir_fd: int | None) -> int:
    # Opened by what it is, so that nothing can take its place before the wait begins.
    place = os.open(path, os.O_PATH | safe, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise _not_plain(path)
        return os.open(f"/proc/self/fd/{place}", flags & ~os.O_CREAT | os.O_CLOEXEC)
    finally:
        os.close(place)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Return all bytes of a plain file; raises as `open_regular`."""
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        return file.read()


def _not_plain(path: str | os.PathLike[str]) -> NotPlainError:
    return NotPlainError(errno.EIO, "no plain file", os.fspath(path))


class FallocateMode(enum.IntFlag):
    """`FALLOC_FL_*` in linux/falloc.h; 0 allocates and extends the file."""

    KEEP_SIZE = 0x01
    PUNCH_HOLE = 0x02
    """Only together with `KEEP_SIZE`."""
    COLLAPSE_RANGE = 0x08
    ZERO_RANGE = 0x10
    INSERT_RANGE = 0x20
    UNSHARE_RANGE = 0x40


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Change the allocation of `[offset, offset + length)` of a file.

    Blocks: as long as the file system needs.

    Args:
        fd: Open for writing.
        mode: `FallocateMode` bits, or 0.
        offset: First byte, >= 0.
        length: Bytes, > 0.

    Raises:
        OSError: EOPNOTSUPP where the file system has no such mode, ENOSPC, EFBIG, EINVAL, ...

    Source: fallocate(2).
    """
    while _fallocate(fd, mode, offset, length) != 0:
        error = last_error()
        if error.errno != errno.EINTR:
            raise error


def seek_span(fd: int, offset: int, whence: int) -> int:
    """Return where the next data or hole of a file begins (lseek(2)).

    On tmpfs, the hole behind data in the last page below 2**63 has a negative place: it is the end.

    Args:
        fd: An open file.
        offset: In bytes, where the search begins.
        whence: `os.SEEK_DATA` or `os.SEEK_HOLE`.

    Raises:
        OSError: ENXIO: nothing of the kind follows, or the offset lies past the end.
    """
    # `os.lseek` takes every negative answer for a failure, and finds no error in errno.
    found: int = _lseek(fd, offset, whence)
    if found == -1:
        raise last_error()
    return found if found >= 0 else os.fstat(fd).st_size


def give_owner(file: int | str | os.PathLike[str], uid: int, gid: int) -> None:
    """Change the owner and group of a file, where they are others (chown(2)).

    A service may be forbidden the call itself, also where nothing would change.

    Args:
        file: A descriptor, or a path; a symbolic link is followed.
        uid: User id.
        gid: Group id.

    Raises:
        OSError: As of chown(2).
    """
    status = os.stat(file)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.chown(file, uid, gid)


def share_blocks(source_fd: int, target_fd: int) -> bool:
    """Let the target share all blocks of the source, copy on write.

    Args:
        source_fd: Open for reading.
        target_fd: Open for writing, on the same file system; its content is replaced.

    Returns:
        False if the file system cannot; the target is then unchanged.

    Raises:
        OSError: The file system can, and failed: EIO, ENOSPC, ...

    Source: ioctl_ficlone(2).
    """
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def sync_directory(path: str | os.PathLike[str], *, dir_fd: int | None = None) -> None:
    """Make the names in a directory survive power loss (fsync(2) of the directory itself).

    Args:
        path: That of the directory.
        dir_fd: What a relative path begins at; None: the working directory.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def spread_subdirectories(fd: int) -> bool:
    """Have each new subdirectory lie in a block group of its own, its files with it.

    ext4 passes over the inodes of files that were removed in the last minutes, one by one and from
    the beginning of the group for each new file (fs/ext4/ialloc.c, `recently_deleted`). Where all
    directories share a group, ten thousand files removed make each new one take 200 to 700 us.

    Args:
        fd: A directory.

    Returns:
        False if its file system knows no such hint.

    Source: chattr(1), attribute T; ioctl_iflags(2).
    """
    flags = bytearray(_FLAGS.size)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        (present,) = _FLAGS.unpack(flags)
        if not present & _TOP_DIRECTORY:
            fcntl.ioctl(fd, _SET_FLAGS, _FLAGS.pack(present | _TOP_DIRECTORY))
    except OSError:
        return False
    return True


def take_lease(fd: int, kind: int) -> None:
    """Take a lease whose break harms nobody; closing the descriptor gives it back.

    Anyone who opens the file meanwhile, one of our own threads say, has the kernel signal the
    holder: by default with SIGIO, which ends a process. SIGURG is ignored by default.

    Args:
        fd: Open read-only; the caller owns the file or has CAP_LEASE.
        kind: `fcntl.F_RDLCK` or `fcntl.F_WRLCK`.

    Raises:
        OSError: EAGAIN where others have the file open, EACCES without ownership, EINVAL where the
            file system has no leases.

    Source: fcntl(2), F_SETLEASE and F_SETSIG.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)


def try_lease(fd: int) -> bool:
    """Find out whether anybody can write to a file: descriptors and shared mappings count.

    A read lease is taken and given back at once. Passthrough makes this the only witness of a
    writer: a mapping outlives the close that the daemon sees.

    Args:
        fd: Open read-only; the caller owns the file or has CAP_LEASE.

    Returns:
        True if there was no writer at this instant.

    Raises:
        OSError: EACCES without ownership, EINVAL where the file system has no leases.

    Source: fcntl(2), F_SETLEASE.
    """
    try:
        take_lease(fd, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin to write the dirty pages of `[offset, offset + length)` to the disk.

    Blocks: while the disk's queue is full; not until the pages are there. Makes nothing durable.

    Raises:
        OSError: EIO, ENOSPC.

    Source: sync_file_range(2), SYNC_FILE_RANGE_WRITE.
    """
    if _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE) != 0:
        raise last_error()


def write_back(fd: int, offset: int, length: int) -> None:
    """Write the dirty pages of `[offset, offset + length)` to the disk, and wait for that.

    Makes nothing durable: what leads to the pages, and the cache of the disk, are left to fsync(2).

    Raises:
        OSError: EIO, ENOSPC.

    Source: sync_file_range(2), SYNC_FILE_RANGE_WRITE_AND_WAIT.
    """
    if _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE_AND_WAIT) != 0:
        raise last_error()


def syncfs(fd: int) -> None:
    """Write everything of the file system that holds `fd` to stable storage.

    Blocks: until the disk has it.

    Raises:
        OSError: EIO, ENOSPC or EDQUOT if anything could not be written since the last call.

    Source: syncfs(2).
    """
    if _syncfs(fd) != 0:
        raise last_error()


def read_cached(fd: int, offset: int, size: int) -> bytearray | None:
    """Return bytes of a file that are in the page cache; never waits for the disk.

    Args:
        fd: Open for reading.
        offset: Where to begin, in bytes.
        size: Bytes wanted.

    Returns:
        All of them; None if some are not in the cache, or the file ends before (preadv2(2),
        RWF_NOWAIT), or its file system cannot tell.
    """
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return None
    return buffer if count == size else None
