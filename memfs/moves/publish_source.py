"""What is published, as it is read while it is sent.

Invariant: the end of the bytes is told only after they were seen to be of one instant, so that
nothing else becomes an object.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import trio
from blake3 import blake3

from memfs.errors import StoreError
from memfs.metadata.records import Inode
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.types import Generation, InodeNo

FormRead = Callable[[Inode, int, int], Awaitable[bytes]]
"""Returns bytes of a file that has no raw file, from an offset, at most so many."""

PIECE_BYTES = 1 << 20
"""Read at a time."""


class SourceChangedError(StoreError):
    """The file was changed while it was sent."""


class Opened(NamedTuple):
    """Bytes that can be read."""

    read_at: Callable[[int, int], bytes]
    """Returns some bytes from an offset, at most so many."""
    close: Callable[[], None]


class Sent(NamedTuple):
    """What is sent."""

    ino: InodeNo
    generation: Generation
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    open: Callable[[], Opened]
    """Opens it in a worker thread of trio, which reads and closes it."""
    check: Callable[[bytes], Awaitable[None]]
    """Looks by the digest whether it is still what it was; raises `SourceChangedError`."""


class Source:
    """What is sent, as a `ByteSource`; its end is told only once it may become an object.

    Args:
        sent: Has the bytes.
        may_appear: Told the digest of all bytes; raises what keeps the object from appearing.
        advance: Told the bytes that were read.
    """

    def __init__(
        self,
        sent: Sent,
        may_appear: Callable[[bytes], Awaitable[None]],
        advance: Callable[[int], None],
    ) -> None:
        self._sent = sent
        self._may_appear = may_appear
        self._advance = advance
        self._hasher = blake3()
        self._opened: Opened | None = None
        self._done_bytes = 0
        self._is_over = False
        self.is_given_up = False
        """Nobody waits any more: there is no end of it."""

    @property
    def size_max(self) -> int:
        """Exactly so many bytes come."""
        return self._sent.size

    @property
    def digest(self) -> bytes:
        """That of all bytes, once they were read."""
        return self._hasher.digest()

    def read(self) -> bytes:
        """See `ByteSource`."""
        missing = self._sent.size - self._done_bytes
        if self.is_given_up:
            raise SourceChangedError("nobody waits any more")
        if not missing:
            if not self._is_over:
                trio.from_thread.run(self._may_appear, self.digest)
                self._is_over = True
            return b""
        if self._opened is None:
            self._opened = self._sent.open()
        data = self._opened.read_at(self._done_bytes, min(PIECE_BYTES, missing))
        if not data:
            raise SourceChangedError("it ends before its size")
        self._hasher.update(data)
        self._done_bytes += len(data)
        self._advance(self._done_bytes)
        return data

    def close(self) -> None:
        """See `ByteSource`."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()


def open_file(fd: int, path: Path) -> Opened:
    """Return a file that is open; closing what is returned closes it."""

    def read_at(offset: int, size: int) -> bytes:
        with disk_errors(str(path)):
            return os.pread(fd, size, offset)

    return Opened(read_at, lambda: os.close(fd))
