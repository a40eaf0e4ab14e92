"""Copy: the bytes of a raw file in a second one, which becomes another file's.

Where the disk can, both share their blocks until one is written (FICLONE), and it takes no time at
any size; else the bytes are copied, holes left out.

1. The intent names the new raw file. *Killed from here on* (`copy.begun`, `copy.created`,
   `copy.written`): the next start rolls it back, and the raw file becomes garbage.
2. One change of the engine makes the file and ends the intent (`copy.published`).

Invariant: until it is published the copy is nobody's, and no name leads to it. It is not durable by
then, as a file that a program has just written and closed is not.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.content.sealing import raw_mtime_ns
from memfs.errors import CorruptDataError
from memfs.linux.times import storable_ns
from memfs.metadata.records import InodeFlags, MoveKind
from memfs.moves.attempt import recorded
from memfs.stores.disk import clone_file, disk_errors
from memfs.types import NO_INODE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import Attempt, MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.types import RawId


class RawCopy(NamedTuple):
    """A raw file that is not anybody's yet, as it is."""

    raw: RawId
    size: int
    blocks: int
    mtime_ns: int
    is_shared: bool
    """The disk shares its blocks with those of the source."""


@contextlib.asynccontextmanager
async def copied(parts: MoveParts, inode: Inode) -> AsyncIterator[tuple[Attempt, RawCopy]]:
    """Copy the raw file of an inode for the block, which publishes it or has it removed.

    A file that a program writes meanwhile is copied as it is read, one byte after the other.

    Checkpoint: always. Cancel: safe.

    Args:
        parts: What moves work with.
        inode: At any instant; it has a raw file.

    Raises:
        ObjectMissingError: The raw file is gone: the inode has moved on.
        CorruptDataError: It is sealed, and its raw file is not as long as it is.
        NoSpaceError: The disk is full; nothing is left behind.
    """
    _, raw = parts.engine.reserve_ids()
    nobody = inode._replace(ino=NO_INODE)
    async with recorded(parts, MoveKind.HYDRATE, str(int(raw)), nobody) as attempt:
        parts.faults.reach("copy.begun")
        with parts.progress.track("copy", inode.ino, inode.size) as progress:
            copy = await trio.to_thread.run_sync(
                _copy, parts, inode, raw, progress, limiter=parts.prompt_threads
            )
        parts.faults.reach("copy.written")
        if copy.size != inode.size and not inode.flags & InodeFlags.UNSEALED:
            raise CorruptDataError(
                f"inode {inode.ino}: raw file {inode.raw} has {copy.size} bytes, not {inode.size}"
            )
        yield attempt, copy
    parts.faults.reach("copy.published")


def _copy(parts: MoveParts, inode: Inode, raw: RawId, progress: MoveProgress) -> RawCopy:
    with new_raw(parts, inode.raw, raw, "copy.created") as (source, target):
        before = os.fstat(source)
        is_shared = clone_file(source, target, progress.advance)
        mtime_ns = inode.mtime_ns
        if inode.flags & InodeFlags.UNSEALED:
            mtime_ns = raw_mtime_ns(inode, before)
        os.utime(target, ns=(inode.atime_ns, mtime_ns))
        after = os.fstat(target)
    return RawCopy(raw, after.st_size, after.st_blocks, storable_ns(after.st_mtime_ns), is_shared)


@contextlib.contextmanager
def new_raw(
    parts: MoveParts, of: RawId, raw: RawId, point: str, *, is_ready: bool = False
) -> Iterator[tuple[int, int]]:
    """Open a raw file for reading, and make another one that is to have its bytes, for the block.

    Args:
        parts: What moves work with.
        of: The raw file that is read.
        raw: The new one; its number was never used.
        point: Fault point that is reached when it is there.
        is_ready: The new one is there, empty.

    Raises:
        ObjectMissingError: There is no such raw file.
        NoSpaceError, StoreError: As the block, or the disk, says.
    """
    store = parts.raw_store
    with disk_errors(str(store.path(raw))):
        source = store.open(of, os.O_RDONLY)
        try:
            target = store.open(raw) if is_ready else store.create(raw)
            try:
                parts.faults.reach(point)
                yield source, target
            finally:
                os.close(target)
        finally:
            os.close(source)
