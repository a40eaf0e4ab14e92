"""Past: where the bytes of a file as of a snapshot are, and reads of them.

`PastReader.find` says where they are. A raw file that a snapshot keeps is nobody else's and never
changes: it may be passed through, cloned and copied. A blob is read by its forms. A generation that
the live inode still has (`is_shared`) may be written in place at any moment: a reader or copier
asks `holds` afterwards, and takes what it got only if the answer is True; else it finds anew.

Invariant: what a read returns is of the generation that the snapshot shows.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.bounded import BoundedDict
from memfs.errors import (
    CorruptDataError,
    IsADirectoryInodeError,
    NotKeptError,
    ObjectChangedError,
    ObjectMissingError,
    StaleInodeError,
)
from memfs.linux.files import read_cached, seek_span
from memfs.linux.times import storable_ns
from memfs.metadata.foreign import Conflict
from memfs.metadata.records import InodeFlags
from memfs.types import NO_RAW, Generation
from memfs.waiting import leave

if TYPE_CHECKING:
    from memfs.content.forms import FormReader
    from memfs.content.sealing import Sealer
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.stores.raw import RawStore
    from memfs.types import InodeNo, RawId, SnapshotId

_THREADS_MAX = 8
"""Reads that wait for the disk at a time. Guess."""

_REPLACED = "has been replaced, and its source keeps no versions"

_REPLACED_MAX = 1000
"""Files that are remembered of which the object was replaced; a later read finds it again."""


class PastState(enum.StrEnum):
    """How a file's bytes are as of a snapshot."""

    EXACT = "exact"
    """They are those of the instant."""
    OPEN = "open"
    """A program had the file open for writing then, and may have changed them since."""
    ABSENT = "absent"
    """Nothing has them any longer."""


class PastContent(NamedTuple):
    """Where the bytes of a file as of a snapshot are."""

    inode: Inode
    """As of the snapshot; `raw` or `blob` has the bytes, and size, blocks and mtime are theirs."""
    state: PastState
    is_shared: bool
    """They are those of the live inode; see `PastReader.holds`."""


class PastReader:
    """Finds and reads bytes as of snapshots.

    Args:
        engine: Knows the snapshots.
        raw_store: Has the raw files, kept ones among them.
        sealer: Knows raw files that were damaged while no daemon ran.
        form_reader: Reads packed and remote forms.
    """

    def __init__(
        self, engine: Engine, raw_store: RawStore, sealer: Sealer, form_reader: FormReader
    ) -> None:
        self._engine = engine
        self._raw_store = raw_store
        self._sealer = sealer
        self._form_reader = form_reader
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._replaced: BoundedDict[tuple[InodeNo, Generation], str] = BoundedDict(_REPLACED_MAX)

    async def find(self, snap: SnapshotId, ino: InodeNo) -> PastContent:
        """Return where a file's bytes as of a snapshot are now.

        Raises:
            NotFoundError: The snapshot was deleted.
            StaleInodeError: The inode did not exist.
        """
        return await self.find_of(await self._engine.inode_at(snap, ino))

    async def find_of(self, inode: Inode) -> PastContent:
        """Do as `find` for an inode that the engine returned as of a snapshot just now."""
        if not stat.S_ISREG(inode.mode):
            return PastContent(inode, PastState.EXACT, False)
        live = await self._live(inode.ino)
        if live is not None and _has_bytes_of(live, inode):
            return self._find_shared(inode, live)
        if not (inode.raw or inode.blob):
            if await self._engine.list_all_forms(inode):
                return PastContent(inode, PastState.EXACT, False)
            state = PastState.ABSENT if inode.size else PastState.EXACT
            return PastContent(inode, state, False)
        before = inode.ino, Generation(inode.generation - 1)
        (kept,) = await self._engine.list_kept(before, 1)
        state = PastState.OPEN if kept.open or kept.size != inode.size else PastState.EXACT
        if state is PastState.OPEN:
            inode = inode._replace(size=kept.size, mtime_ns=kept.mtime_ns)
        return PastContent(inode, state, False)

    def _find_shared(self, inode: Inode, live: Inode) -> PastContent:
        if live.flags & InodeFlags.UNSEALED:
            try:
                status = self._raw_store.stat(live.raw)
            except ObjectMissingError:
                return PastContent(inode, PastState.OPEN, True)
            inode = inode._replace(
                size=status.st_size,
                blocks=status.st_blocks,
                mtime_ns=storable_ns(status.st_mtime_ns),
            )
            return PastContent(inode, PastState.OPEN, True)
        if live.size != inode.size:
            inode = inode._replace(size=live.size, blocks=live.blocks, mtime_ns=live.mtime_ns)
            return PastContent(inode, PastState.OPEN, True)
        return PastContent(inode, PastState.EXACT, True)

    async def holds(self, content: PastContent) -> bool:
        """Return whether what was read or copied by now is what `find` has found.

        Bytes change in place only after the live inode has another generation.
        """
        if not content.is_shared:
            return True
        live = await self._live(content.inode.ino)
        return live is not None and live.generation == content.inode.generation

    async def open(self, snap: SnapshotId, ino: InodeNo) -> PastFile:
        """Return a file as of a snapshot, to be read and closed.

        Raises:
            NotKeptError: Nothing has its bytes any longer.
            IsADirectoryInodeError: It is not a regular file.
            CorruptDataError: The raw file that has them is damaged.
        """
        content = await self.find(snap, ino)
        if not stat.S_ISREG(content.inode.mode):
            raise IsADirectoryInodeError(f"inode {ino} is not a regular file")
        file = PastFile(self, snap, await self.sound(content))
        await file.check()
        return file

    async def read(self, snap: SnapshotId, ino: InodeNo, offset: int, size: int) -> bytes:
        """Return bytes `[offset, offset + size)` as of a snapshot; fewer only at the end.

        Checkpoint: where the disk or the store is waited for.

        Raises:
            NotKeptError, IsADirectoryInodeError, CorruptDataError: As `open`.
        """
        file = await self.open(snap, ino)
        try:
            return bytes(await file.read(offset, size))
        finally:
            file.close()

    async def sound(self, content: PastContent) -> PastContent:
        """Return where undamaged bytes are; raises as `open`."""
        inode = content.inode
        if content.state is PastState.ABSENT:
            raise NotKeptError(
                f"inode {inode.ino}: the bytes of generation {inode.generation} were not kept for "
                "the snapshot"
            )
        if not content.is_shared or not inode.raw:
            return content
        live = await self._live(inode.ino)
        damage = None if live is None else self._sealer.damage_of(live)
        if damage is None:
            return content
        if not inode.blob:
            raise CorruptDataError(damage)
        return content._replace(inode=inode._replace(raw=NO_RAW))

    async def _live(self, ino: InodeNo) -> Inode | None:
        try:
            return await self._engine.get_inode(ino)
        except StaleInodeError:
            return None

    async def read_forms(
        self, snap: SnapshotId, content: PastContent, offset: int, size: int
    ) -> bytes:
        """Read a content that has no raw file; for `PastFile`. Checkpoint: always.

        Raises:
            NotKeptError: It was that of an object of others, and another one has the key by now.
        """
        again = partial(self._engine.inode_at, snap)
        ino, generation = content.inode.ino, content.inode.generation
        try:
            data = await self._form_reader.read(content.inode, offset, size, again)
        except ObjectChangedError as error:
            # Its errno would have programs look the name up again, which leads to the same file.
            self._replaced[ino, generation] = str(error)
            raise NotKeptError(
                f"inode {ino}: the object of generation {generation} {_REPLACED}: {error}"
            ) from error
        self._replaced.pop((ino, generation), None)
        return data

    async def replaced(self, inode: Inode) -> str | None:
        """Return how the object was replaced that had the bytes of a file as of a snapshot.

        None: it has them, or nobody has looked since.
        """
        told = self._replaced.get((inode.ino, inode.generation))
        known = await self._engine.get_object(inode.ino)
        if told is None and known is not None and known.generation == inode.generation:
            is_gone = not known.current and known.conflict is Conflict.CHANGED
            if is_gone and not (known.version or inode.raw or inode.blob):
                told = known.name
        return None if told is None else f"the object {_REPLACED}: {told}"

    def open_raw(self, raw: RawId) -> int:
        """Return a descriptor of a raw file; for `PastFile`."""
        return self._raw_store.open(raw, os.O_RDONLY)

    async def read_raw(self, fd: int, offset: int, size: int) -> bytes | bytearray:
        """Read a raw file; for `PastFile`. Checkpoint: where the disk is waited for."""
        cached = read_cached(fd, offset, size)
        if cached is not None:
            return cached
        await leave()
        return await trio.to_thread.run_sync(os.pread, fd, size, offset, limiter=self._threads)


class PastFile:
    """An open file as of a snapshot.

    Args:
        reader: Reads.
        snap: The snapshot.
        content: Where the bytes were found, undamaged.
    """

    def __init__(self, reader: PastReader, snap: SnapshotId, content: PastContent) -> None:
        self._reader = reader
        self._snap = snap
        self.content = content
        """Where the bytes were when they were looked for last."""
        self._raw = NO_RAW
        self._fd = -1

    async def check(self) -> None:
        """See that a kept raw file is as long as it was; raises `CorruptDataError`."""
        if self.content.inode.raw and not self.content.is_shared:
            await self._checked_fd()

    async def read(self, offset: int, size: int) -> bytes | bytearray:
        """Return bytes `[offset, offset + size)`; fewer only at the end.

        Checkpoint: where the disk or the store is waited for.

        Raises:
            NotKeptError, CorruptDataError: As `PastReader.open`.
        """
        while True:
            if self.content.state is PastState.OPEN and self.content.is_shared:
                # It may have grown.
                await self._find_again()
            content = self.content
            wanted = max(0, min(size, content.inode.size - offset))
            try:
                data = await self._read(content, offset, wanted) if wanted else b""
            except ObjectMissingError:
                await self._find_again()
                if self.content == content:
                    raise
                # It was packed, and its raw file dropped.
                continue
            if not await self._reader.holds(content):
                await self._find_again()
                continue
            if len(data) < wanted and content.state is PastState.EXACT:
                raise CorruptDataError(
                    f"inode {content.inode.ino}: its bytes as of the snapshot end before "
                    f"{offset + wanted}; run memfs fsck"
                )
            return data

    async def seek(self, offset: int, whence: int) -> int:
        """Return where data or a hole is, as lseek(2) with SEEK_DATA or SEEK_HOLE.

        Raises:
            OSError: ENXIO: there is nothing behind the offset.
        """
        while True:
            content = self.content
            if not content.inode.raw:
                if not 0 <= offset < content.inode.size:
                    raise OSError(errno.ENXIO, f"offset {offset} is not below the end")
                return offset if whence == os.SEEK_DATA else content.inode.size
            found = seek_span(await self._checked_fd(), offset, whence)
            if await self._reader.holds(content):
                return found
            await self._find_again()

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _find_again(self) -> None:
        """The live inode has moved on: by now the snapshot has what it needs for itself."""
        found = await self._reader.find(self._snap, self.content.inode.ino)
        self.content = await self._reader.sound(found)

    async def _read(self, content: PastContent, offset: int, size: int) -> bytes | bytearray:
        if content.inode.raw:
            return await self._reader.read_raw(await self._checked_fd(), offset, size)
        await leave()
        return await self._reader.read_forms(self._snap, content, offset, size)

    async def _checked_fd(self) -> int:
        inode = self.content.inode
        if self._fd < 0 or self._raw != inode.raw:
            self.close()
            self._fd = self._reader.open_raw(inode.raw)
            self._raw = inode.raw
            size = os.fstat(self._fd).st_size
            if size != inode.size and not self.content.is_shared:
                raise CorruptDataError(
                    f"inode {inode.ino}: raw file {inode.raw}, which a snapshot keeps, has {size} "
                    f"bytes instead of {inode.size}; restore it from a backup"
                )
        return self._fd


def _has_bytes_of(live: Inode, inode: Inode) -> bool:
    """Return whether an inode as of a snapshot shows the live one's bytes."""
    return live.generation == inode.generation and live.raw == inode.raw and live.blob == inode.blob
