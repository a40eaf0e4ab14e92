"""The C library, and how its calls report errors.

Invariant: a call through `LIBC` releases the interpreter lock, and its errno is read from ctypes'
own copy, which no other Python code of the thread can overwrite.
"""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
"""The process's C library (dlopen(3) of NULL)."""


MAP_FAILED = ctypes.c_void_p(-1).value

mmap64 = LIBC.mmap64
"""mmap(2); returns an address, or `MAP_FAILED`."""
mmap64.restype = ctypes.c_void_p
mmap64.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
munmap = LIBC.munmap
munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def last_error(subject: str | None = None) -> OSError:
    """Make the exception for the call that has just failed.

    Args:
        subject: What the call was about, such as a path; shown in the message.
    """
    code = ctypes.get_errno()
    if subject is None:
        return OSError(code, os.strerror(code))
    return OSError(code, os.strerror(code), subject)
