"""Opens that cannot leave a directory: openat2(2) with RESOLVE_BENEATH; renames within one.

Invariant: whatever symbolic links others plant below the directory, no call opens, makes, renames
or removes anything outside of it.
"""

from __future__ import annotations

import ctypes
import errno
import os

from memfs.linux.libc import LIBC, last_error

_OPENAT2 = 437
"""The number of the call on all architectures (include/uapi/asm-generic/unistd.h)."""

_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_ATTEMPTS_MAX = 100
"""A rename beside the call makes it fail with EAGAIN, as openat2(2) tells. Guess."""


class _OpenHow(ctypes.Structure):
    """`struct open_how` (include/uapi/linux/openat2.h)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(directory_fd: int, path: str, flags: int, mode: int = 0o666) -> int:
    """Open a path below a directory and return a descriptor (close-on-exec).

    Args:
        directory_fd: The directory that the call does not leave.
        path: Relative; symbolic links within the directory are followed.
        flags: As for open(2).
        mode: For a new file, less the umask.

    Raises:
        OSError: As of open(2); EXDEV: the path leads out of the directory; ENOSYS: the kernel is
            older than 5.6.
    """
    creates = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
    how = _OpenHow(
        flags | os.O_CLOEXEC, mode if creates else 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
    )
    name = os.fsencode(path)
    for _ in range(_ATTEMPTS_MAX):
        fd: int = LIBC.syscall(
            _OPENAT2, directory_fd, name, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if fd >= 0:
            return fd
        error = last_error(path)
        if error.errno not in (errno.EAGAIN, errno.EINTR):
            raise error
    raise error


def rename_new(directory_fd: int, name: str, new: str) -> None:
    """Rename within a directory to a name that is not taken (renameat2(2), RENAME_NOREPLACE).

    Raises:
        OSError: As of rename(2); EEXIST: the name is taken; EINVAL: the file system cannot do it.
    """
    _rename(directory_fd, name, new, _RENAME_NOREPLACE)


def exchange(directory_fd: int, name: str, other: str) -> None:
    """Exchange two names of a directory (renameat2(2), RENAME_EXCHANGE).

    Raises:
        OSError: As of rename(2); ENOENT: one of them is missing; EINVAL: the file system cannot.
    """
    _rename(directory_fd, name, other, _RENAME_EXCHANGE)


def _rename(directory_fd: int, name: str, new: str, flags: int) -> None:
    if LIBC.renameat2(directory_fd, os.fsencode(name), directory_fd, os.fsencode(new), flags):
        raise last_error(new)
