"""Mappings by address: what Python's `mmap` module cannot give for read-only memory.

Invariant: a mapping is taken away once, by `unmap`, and its address means nothing after that.
"""

from __future__ import annotations

import ctypes
import mmap

from memfs.linux.libc import LIBC, last_error

_MAP_FAILED = ctypes.c_void_p(-1).value

_mmap = LIBC.mmap64
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_munmap = LIBC.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Mapping:
    """Bytes of a descriptor in this process's memory (mmap(2)).

    Args:
        fd: May be closed afterwards.
        size_bytes: > 0; from the start.
        private: Writable, and what is written is seen by nobody else; else read-only and shared.

    Raises:
        OSError: The kernel refuses.
    """

    def __init__(self, fd: int, size_bytes: int, *, private: bool) -> None:
        protection, flags = mmap.PROT_READ, mmap.MAP_SHARED
        if private:
            protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE
        address = _mmap(None, size_bytes, protection, flags, fd, 0)
        if address == _MAP_FAILED:
            raise last_error()
        self.address = int(address)
        self.size_bytes = size_bytes

    def unmap(self) -> None:
        """Take the mapping away; idempotent."""
        address, self.address = self.address, 0
        if address:
            _munmap(address, self.size_bytes)
