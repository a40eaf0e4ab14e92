"""The C library, and how its calls report errors.

Invariant: a call through `LIBC` releases the interpreter lock, and its errno is read from ctypes'
own copy, which no other Python code of the thread can overwrite.
"""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
"""The process's C library (dlopen(3) of NULL)."""


def last_error(subject: str | None = None) -> OSError:
    """Make the exception for the call that has just failed.

    Args:
        subject: What the call was about, such as a path; shown in the message.
    """
    code = ctypes.get_errno()
    if subject is None:
        return OSError(code, os.strerror(code))
    return OSError(code, os.strerror(code), subject)
