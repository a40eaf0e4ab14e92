"""Lending: what other nodes of the mount may read here, of files that no store has yet.

Invariant: only bytes of the sealed generation that was asked for are told, and only once power loss
cannot take them from this node: another node keeps them under that generation.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import trio

from memfs.errors import CorruptDataError, StaleInodeError, StoreError
from memfs.metadata.records import InodeFlags
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.content.file_syncs import FileSyncs
    from memfs.content.forms import FormReader
    from memfs.content.opentable import OpenTable
    from memfs.content.sealing import Sealer
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.stores.raw import RawStore
    from memfs.types import Generation, InodeNo, RawId

THREADS_MAX = 4
"""Reads of raw files at a time. Guess."""


class Lender:
    """Reads for other nodes; implements `peers.server.Lender`.

    Args:
        engine: Knows the files.
        raw_store, form_reader: Have their bytes.
        open_table: Knows which files a program here can write to.
        sealer: Seals the others.
        file_syncs: Makes files durable.
        reach: Told of each fault point (`moves.faults.PEER_POINTS`).
    """

    def __init__(
        self,
        engine: Engine,
        raw_store: RawStore,
        form_reader: FormReader,
        open_table: OpenTable,
        sealer: Sealer,
        file_syncs: FileSyncs,
        reach: Callable[[str], None] = lambda _point: None,
    ) -> None:
        self._engine = engine
        self._raw_store = raw_store
        self._form_reader = form_reader
        self._open_table = open_table
        self._sealer = sealer
        self._file_syncs = file_syncs
        self._reach = reach
        self._threads = trio.CapacityLimiter(THREADS_MAX)

    async def ask(self, ino: InodeNo) -> bool:
        """Seal a file now if nobody can write to it; returns whether it is sealed.

        The database of the mount has it then. Checkpoint: always. Cancel: safe.

        Raises:
            StaleInodeError: There is no such file.
            MetadataError: The database does not confirm it in time.
        """
        inode = await self._file(ino)
        if inode.flags & InodeFlags.UNSEALED:
            if self._open_table.has_writer(ino):
                return False
            await self._sealer.seal(ino)
            inode = await self._file(ino)
            if inode.flags & InodeFlags.UNSEALED:
                # Mapped, or opened again.
                return False
        self._reach("peer.asked")
        await self._engine.commit()
        await trio.lowlevel.checkpoint()
        return True

    async def read(self, ino: InodeNo, generation: Generation, offset: int, length: int) -> bytes:
        """Return bytes `[offset, offset + length)` of a sealed generation; fewer only at its end.

        Checkpoint: always. Cancel: safe.

        Raises:
            StaleInodeError: The file is gone, is being written, or has another generation.
            CorruptDataError, StoreError: Its bytes cannot be read.
        """
        inode = await self._sealed(ino, generation)
        if (damage := self._sealer.damage_of(inode)) is not None:
            raise CorruptDataError(damage)
        if self._sealer.is_changed(inode):
            raise StaleInodeError(f"inode {ino}: its raw file was written after its seal")
        if inode.raw:
            await self._make_durable(inode)
            data = await trio.to_thread.run_sync(
                self._read_raw, inode.raw, offset, length, limiter=self._threads
            )
        else:
            data = await self._form_reader.read(inode, offset, length)
        # A raw file is written only once its file has another generation.
        await self._sealed(ino, generation)
        self._reach("peer.sent")
        return data

    async def _make_durable(self, inode: Inode) -> None:
        if inode.flags & InodeFlags.DURABLE:
            return
        failures = await self._file_syncs.make_durable([inode])
        if (reason := failures.get(inode.ino)) is not None:
            raise StoreError(f"inode {inode.ino}: {reason}")

    def _read_raw(self, raw: RawId, offset: int, length: int) -> bytes:
        fd = self._raw_store.open(raw, os.O_RDONLY)
        try:
            with disk_errors(str(self._raw_store.path(raw))):
                return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    async def _file(self, ino: InodeNo) -> Inode:
        inode = await self._engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode):
            raise StaleInodeError(f"inode {ino} is no regular file")
        return inode

    async def _sealed(self, ino: InodeNo, generation: Generation) -> Inode:
        inode = await self._file(ino)
        if inode.generation != generation or inode.flags & InodeFlags.UNSEALED:
            raise StaleInodeError(f"inode {ino}: its content is another one by now")
        return inode
