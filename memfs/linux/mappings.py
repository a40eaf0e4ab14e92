"""Mappings by address: what Python's `mmap` module cannot give for read-only memory.

Invariant: a mapping is taken away once, by `unmap`, and its address means nothing after that.
"""

from __future__ import annotations

import mmap

from memfs.linux.libc import MAP_FAILED, last_error, mmap64, munmap


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
        address = mmap64(None, size_bytes, protection, flags, fd, 0)
        if address == MAP_FAILED:
            raise last_error()
        self.address = int(address)
        self.size_bytes = size_bytes

    def unmap(self) -> None:
        """Take the mapping away; idempotent."""
        address, self.address = self.address, 0
        if address:
            munmap(address, self.size_bytes)
