"""Streaming: a container goes to the store while it is made, and never lies on the disk.

Invariant: a stream that breaks on either side leaves no object that counts: the store is told that
the source has failed, and what arrives is read back whole before it is published, as always.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import trio

from memfs.addresses import store_of
from memfs.errors import MemfsError
from memfs.moves.containers import append_container
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.containers import Container
    from memfs.stores.disk import ByteProgress
    from memfs.stores.store import RemoteStore
    from memfs.types import BlobId

SPARE_BYTES_MAX = 256 << 20
"""Room that copies for uploads leave on the disk: other uploads begin at the same time."""

SPARE_SHARE = 0.1
"""That of a small disk it is this share."""

READ_BYTES = 1 << 20


class _BrokenStreamError(MemfsError):
    """The other side has given up, and tells why by itself; it says nothing of the store."""


class _Pipe:
    """Bytes from the thread that makes a container to the thread that uploads it.

    A pair of sockets, because shutting one down ends both threads' waiting. Each side closes its
    own end: a number that is closed under a thread could be another file's when it goes on.
    """

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._near, self._far = socket.socketpair()
        self._complete = False
        self._taken = False

    @property
    def size_max(self) -> int:
        return self._size_max

    @property
    def write_fd(self) -> int:
        """For the thread that makes the container."""
        return self._near.fileno()

    def end_writing(self, *, complete: bool) -> None:
        """No thread writes any more, because all was written or because that failed."""
        self._complete = complete
        self._near.close()

    def read(self) -> bytes:
        self._taken = True
        data = self._far.recv(READ_BYTES)
        if not data and not self._complete:
            raise _BrokenStreamError("the container could not be made")
        return data

    def close(self) -> None:
        """See `ByteSource`: nobody reads any more, and a writer that waits fails."""
        self._taken = True
        self._far.close()

    def end_reading(self) -> None:
        """Nobody waits for the reader, whose thread may go on for a while; the writer fails."""
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)
        if not self._taken:
            self._far.close()


def is_short(directory: Path, wanted_bytes: int) -> bool:
    """Return whether a disk has no room for a copy, and a spare for others beside it."""
    with disk_errors(str(directory)):
        disk = os.statvfs(directory)
    spare_bytes = min(SPARE_BYTES_MAX, int(disk.f_blocks * disk.f_frsize * SPARE_SHARE))
    return disk.f_bavail * disk.f_frsize < wanted_bytes + spare_bytes


async def stream_container(
    parts: MoveParts,
    remote: RemoteStore,
    key: str,
    inode: Inode,
    number: BlobId,
    size_max: int,
    on_progress: ByteProgress,
) -> Container:
    """Store a file's container as an object while it is made; memory is bounded by some parts.

    Args:
        key: That of the object; never used before.
        inode: Has a raw file or a packed form.
        number: Reserved for the blob, if the inode has no blob yet.
        size_max: The container is not larger.
        on_progress: As of `append_container`.

    Raises:
        StoreError, CorruptDataError, EncryptionKeyError: As `append_container` and `put_stream`.
    """
    pipe = _Pipe(size_max)
    made: list[Container] = []
    failures: list[MemfsError | OSError] = []

    async def make() -> None:
        try:
            made.append(
                await append_container(
                    parts, inode, number, pipe.write_fd, on_progress, store_of(key)
                )
            )
        except (MemfsError, OSError) as error:
            failures.append(error)
        finally:
            pipe.end_writing(complete=bool(made))

    async def put() -> None:
        try:
            await remote.put_stream(key, pipe)
        except _BrokenStreamError:
            # The side that makes it tells why.
            return
        except (MemfsError, OSError) as error:
            # Before what the other side meets because of it.
            failures.insert(0, error)
        finally:
            pipe.end_reading()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        nursery.start_soon(put)
    if failures:
        raise failures[0]
    return made[0]
