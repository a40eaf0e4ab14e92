"""At hand: a node that reads has the node that writes do at once what it would wait for.

A file that was closed there and is not sealed yet is sealed; one that is sealed and not uploaded is
fetched from there into a raw file, as from any other place (`moves.hydrating`). Where that fails,
it is waited for as if nobody could be asked.

Invariant: what is fetched is a sealed generation, and counts only if this node knows the file by it
when it is published.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from memfs.errors import (
    CorruptDataError,
    NotUploadedError,
    PeerError,
    StaleInodeError,
    StoreError,
    WrittenElsewhereError,
)
from memfs.moves.hydrating import hydrate
from memfs.stores.disk import disk_errors, path_of, write_all_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.errors import MemfsError
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import Generation, InodeNo

log = logging.getLogger(__name__)


class Client(Protocol):
    """Asks the node that writes; see `memfs.peers.client`."""

    async def ask(self, ino: InodeNo) -> bool:
        """See `PeerClient.ask`."""
        ...

    async def fetch(
        self,
        ino: InodeNo,
        generation: Generation,
        size: int,
        write: Callable[[bytes, int], Awaitable[None]],
    ) -> None:
        """See `PeerClient.fetch`."""
        ...


class AtHand:
    """Acts for who waits for the bytes of a file.

    Args:
        client: Asks the node that writes.
        parts: Those of moves, which fetch from there from now on.
        see: Returns once all is applied that the database has.
    """

    def __init__(self, client: Client, parts: MoveParts, see: Callable[[], Awaitable[int]]) -> None:
        self._client = client
        self._parts = parts
        self._see = see
        parts.from_writer = self._fetch

    async def hurry(self, ino: InodeNo, missing: MemfsError) -> bool:
        """Do what `missing` would wait for; returns whether the file is worth another look now.

        Checkpoint: always. Cancel: safe.

        Args:
            ino: A file whose bytes cannot be had here.
            missing: Why.

        Raises:
            NoSpaceError: The disk is full here.
            BehindError: Changes are missing.
        """
        try:
            if isinstance(missing, WrittenElsewhereError):
                if not await self._client.ask(ino):
                    return False
            elif isinstance(missing, NotUploadedError):
                await hydrate(self._parts, ino)
                return True
        except StaleInodeError as error:
            # Removed, or written anew: the database tells which.
            log.debug("%s", error)
        except (StoreError, CorruptDataError) as error:
            # A node that is away comes again and again, and is logged by who asks it.
            level = logging.DEBUG if isinstance(error, PeerError) else logging.INFO
            log.log(level, "inode %d cannot be fetched from who writes it: %s", ino, error)
            return False
        await self._see()
        return True

    async def _fetch(self, inode: Inode, fd: int, advance: Callable[[int], None]) -> None:
        def begin() -> None:
            with disk_errors(path_of(fd)):
                os.ftruncate(fd, 0)
                os.ftruncate(fd, inode.size)

        def write_piece(data: bytes, offset: int) -> None:
            with disk_errors(path_of(fd)):
                write_all_at(fd, data, offset)

        async def write(data: bytes, offset: int) -> None:
            # Holes stay such.
            if data.count(0) != len(data):
                await trio.to_thread.run_sync(
                    partial(write_piece, data, offset), limiter=self._parts.prompt_threads
                )
            advance(offset + len(data))

        await trio.to_thread.run_sync(begin, limiter=self._parts.prompt_threads)
        await self._client.fetch(inode.ino, inode.generation, inode.size, write)
