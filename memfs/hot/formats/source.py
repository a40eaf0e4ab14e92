"""Sources: files whose headers are read.

Invariant: a read returns exactly the bytes asked for, or raises.
"""

from __future__ import annotations

import os
from typing import Protocol

from memfs.hot.tensors import FormatError


class Source(Protocol):
    """Bytes with a name."""

    name: str
    """For messages: a path."""
    size_bytes: int

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes `[offset, offset + size)`.

        Raises:
            FormatError: They are not all there.
        """
        ...


class FileSource:
    """An open file.

    Args:
        fd: Open for reading, as long as this is used.
        name: Its path.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.size_bytes = os.fstat(fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Read by pread(2), as often as it takes."""
        pieces = []
        begin, end = offset, offset + size
        while begin < end:
            piece = os.pread(self._fd, end - begin, begin)
            if not piece:
                raise FormatError(f"{self.name} ends at {begin}, within its header")
            pieces.append(piece)
            begin += len(piece)
        return b"".join(pieces)
