"""The page cache of files: which pages are resident, and locking them in RAM.

Invariant: a `PageLock` keeps its pages resident until `release`, even under memory pressure and
`drop_caches`; it keeps no descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MemfsError
from memfs.linux.libc import LIBC, MAP_FAILED, last_error, mmap64, munmap
from memfs.linux.locking import lock_pages
from memfs.linux.privileges import Capability, has_capability

if TYPE_CHECKING:
    from collections.abc import Callable

_SYS_CACHESTAT = 451
"""The same on every architecture (Linux 6.5, scripts/syscall.tbl)."""
_MINCORE_WINDOW_BYTES = 1 << 30
"""Bytes asked of mincore(2) at a time: 256 KiB of its answer, one byte a page of 4 KiB."""

_mincore = LIBC.mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_syscall = LIBC.syscall
_syscall.restype = ctypes.c_long


LOCK_PIECE_BYTES = 256 << 20
"""2.5 s from a disk of 100 MB/s; whole huge pages."""


class PageLockError(MemfsError):
    """The kernel refused to lock a file's pages; the message says why and what to do.

    Attributes:
        code: The errno of mmap(2) or mlock(2).
        permanent: True if no file can be locked until an administrator changes a limit.
    """

    errno = errno.ENOMEM

    def __init__(self, message: str, code: int, permanent: bool) -> None:
        super().__init__(message)
        self.code = code
        self.permanent = permanent


class CacheStat(NamedTuple):
    """How much of a range of a file is in the page cache; whole pages."""

    resident_bytes: int
    dirty_bytes: int | None
    """Not yet written to disk; None where only mincore(2) could be asked."""
    writeback_bytes: int | None
    """On the way to disk; None as above."""


def _go_on() -> None:
    """Pause for nothing."""


class PageLock:
    """A file's pages, locked in RAM (mlock(2)) through a read-only shared mapping.

    Blocks while pages that are not resident are read from disk: construct it in a thread. Counts
    against `memlock_limit` by its length and against `max_map_count` as one mapping.

    Args:
        fd: Open for reading; may be closed afterwards.
        length: Bytes from the start of the file; 0 locks nothing.
        pause: Called before each piece; what it raises ends the attempt.
        piece_bytes: Locked without a pause: whole pages.
        lock: Locks a piece, by its address and length.

    Raises:
        PageLockError: A limit was met.
        OSError: The file cannot be mapped or read: EACCES, ENODEV, ...
    """

    __slots__ = ("_address", "length")

    def __init__(
        self,
        fd: int,
        length: int,
        pause: Callable[[], None] = _go_on,
        *,
        piece_bytes: int = LOCK_PIECE_BYTES,
        lock: Callable[[int, int], None] = lock_pages,
    ) -> None:
        self.length = length
        self._address: int | None = None
        if length == 0:
            return
        address = _map_file(fd, 0, length)
        try:
            for offset in range(0, length, piece_bytes):
                pause()
                try:
                    lock(address + offset, min(piece_bytes, length - offset))
                except OSError as error:
                    raise _lock_refusal(error, length) from None
        except BaseException:
            munmap(address, length)
            raise
        self._address = address

    def release(self) -> None:
        """Unlock and unmap; the pages stay cached until the kernel wants them. Idempotent."""
        if self._address is not None:
            release_pages(self._address, self.length)
            self._address = None

    def hand_over(self) -> int:
        """Leave the pages locked; returns their address for `release_pages`, 0 of an empty file.

        What remembers many locks is spared an object for each.
        """
        address, self._address = self._address, None
        return address or 0


def release_pages(address: int, length: int) -> None:
    """Unlock and unmap what `PageLock.hand_over` gave; once only."""
    munmap(address, length)


def cachestat(fd: int, offset: int = 0, length: int = 0) -> CacheStat:
    """Ask how much of `[offset, offset + length)` of a file is in the page cache.

    Args:
        fd: Open for reading.
        offset: First byte, >= 0.
        length: Bytes; 0: to the end of the file.

    Raises:
        OSError: EBADF, EOPNOTSUPP for hugetlbfs, EPERM for a file that is neither writable nor
            owned by the caller.

    Source: cachestat(2), Linux 6.5; mincore(2) on kernels without it.
    """
    span = (ctypes.c_uint64 * 2)(offset, length)
    counts = (ctypes.c_uint64 * 5)()
    if _syscall(_SYS_CACHESTAT, fd, ctypes.byref(span), ctypes.byref(counts), 0) == 0:
        resident_pages, dirty_pages, writeback_pages, *_ = counts
        return CacheStat(
            resident_pages * mmap.PAGESIZE,
            dirty_pages * mmap.PAGESIZE,
            writeback_pages * mmap.PAGESIZE,
        )
    error = last_error()
    if error.errno != errno.ENOSYS:
        raise error
    return CacheStat(resident_bytes_by_mincore(fd, offset, length), None, None)


def resident_bytes_by_mincore(fd: int, offset: int = 0, length: int = 0) -> int:
    """Return the resident bytes of a range as mincore(2) tells; arguments as of `cachestat`."""
    size = os.fstat(fd).st_size
    end = min(offset + length, size) if length else size
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    resident_pages = 0
    while start < end:
        window = min(end - start, _MINCORE_WINDOW_BYTES)
        vector = ctypes.create_string_buffer(-(-window // mmap.PAGESIZE))
        address = _map_file(fd, start, window)
        try:
            if _mincore(address, window, vector) != 0:
                raise last_error()
        finally:
            munmap(address, window)
        # Only the lowest bit is defined (mincore(2)).
        resident_pages += sum(page & 1 for page in vector.raw)
        start += window
    return resident_pages * mmap.PAGESIZE


def memlock_limit() -> int | None:
    """Return how many bytes this process may lock (RLIMIT_MEMLOCK, getrlimit(2)); None: all."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or has_capability(Capability.IPC_LOCK):
        return None
    return limit


def max_map_count() -> int:
    """Return how many mappings a process may have (proc_sys_vm(5), max_map_count)."""
    return int(Path("/proc/sys/vm/max_map_count").read_bytes())


def map_count() -> int:
    """Return how many mappings this process has; takes time in proportion (proc_pid_maps(5))."""
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def _map_file(fd: int, offset: int, length: int) -> int:
    address: int = mmap64(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address == MAP_FAILED:
        error = last_error()
        if error.errno == errno.ENOMEM:
            raise PageLockError(
                f"no mapping left for {length} bytes ({map_count()} of {max_map_count()} in use); "
                "raise vm.max_map_count",
                errno.ENOMEM,
                permanent=True,
            )
        raise error
    return address


def _lock_refusal(error: OSError, length: int) -> Exception:
    """Say why mlock(2) failed, as its manual page lists the reasons."""
    limit = memlock_limit()
    if error.errno == errno.EPERM or (error.errno == errno.ENOMEM and limit == 0):
        return PageLockError(
            "locking memory is not allowed (RLIMIT_MEMLOCK is 0); raise it (`ulimit -l`, "
            "LimitMEMLOCK= in the unit) or grant CAP_IPC_LOCK",
            error.errno or 0,
            permanent=True,
        )
    if error.errno == errno.ENOMEM and limit is not None:
        return PageLockError(
            f"{length} bytes do not fit under RLIMIT_MEMLOCK ({limit} bytes); raise it "
            "(`ulimit -l`, LimitMEMLOCK= in the unit) or lower warm.size",
            errno.ENOMEM,
            permanent=False,
        )
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return PageLockError(
            f"the kernel could not bring {length} bytes into memory, or the file shrank; "
            "lower warm.size",
            error.errno,
            permanent=False,
        )
    return error
