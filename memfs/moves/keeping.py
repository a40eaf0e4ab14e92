"""Keep: a copy of a raw file for the snapshots that show it, before its bytes change in place.

Invariant: the copy and its record are on stable storage before the caller goes on, so that not even
power loss parts the bytes of a snapshot from it. Why no later, tells docs/internals/durability.md.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.config import KIB
from memfs.content.quick_syncs import Unsynced
from memfs.metadata.records import Inode, InodeFlags, MoveKind
from memfs.moves.attempt import recorded
from memfs.moves.copying import new_raw
from memfs.stores.disk import clone_file
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.records import KeptContent
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.types import InodeNo, RawId

SMALL_BYTES_MAX = 64 * KIB
"""A file of this size is copied in 0.1 ms, so that its copy may be left to who waits for syncs."""


def inode_of(kept: KeptContent) -> Inode:
    """Return an inode with the bytes of an earlier generation, as moves look at it."""
    flags = InodeFlags.UNSEALED if kept.open else 0
    times = (kept.mtime_ns,) * 4
    return Inode(
        *(kept.ino, stat.S_IFREG, 0, 0, 1, 0, kept.size, kept.blocks, *times),
        *(kept.generation, kept.raw, kept.blob, flags, 0, None, kept.mtime_ns),
    )


def _never() -> bool:
    return False


async def keep_copy(
    parts: MoveParts, ino: InodeNo, *, is_alone: Callable[[], bool] = _never
) -> None:
    """Give a copy of a file's bytes to the snapshots that need one, once for all who ask.

    Where the disk can, the copy shares its blocks (FICLONE), and takes no time at any size.

    Checkpoint: not on the fast path, for a small file. Cancel: safe; another waiting caller takes
    over.

    Args:
        parts: What moves work with.
        ino: A sealed file.
        is_alone: Returns whether nobody else waits for the event loop, which then makes a copy that
            is soon durable.

    Raises:
        StaleInodeError: The file is gone.
        NoSpaceError: The disk is full; nothing is left behind.
    """
    while await parts.engine.needs_copy(ino) or ino in parts.keeping:
        if ino in parts.keeping:
            await leave()
            await parts.keeping.join(ino)
            continue
        with parts.keeping.lead(ino) as results:
            results[ino] = await _keep(parts, await parts.engine.get_inode(ino), is_alone)


async def _keep(parts: MoveParts, inode: Inode, is_alone: Callable[[], bool]) -> bool:
    engine, syncs = parts.engine, parts.file_syncs
    _, raw = engine.reserve_ids()
    unsynced = Unsynced(inode.ino, inode.size)
    async with recorded(parts, MoveKind.HYDRATE, str(int(raw)), inode) as attempt:
        with parts.progress.track("keep", inode.ino, inode.size) as progress:
            if inode.size <= SMALL_BYTES_MAX:
                copy = partial(_copy, parts, inode, raw)
                await syncs.wait_for(unsynced, copy, is_alone=is_alone)
            else:
                await leave()
                await trio.to_thread.run_sync(
                    _copy, parts, inode, raw, progress, limiter=parts.prompt_threads
                )
        kept = await attempt.publish(partial(engine.keep_copy, inode.ino, inode.generation, raw))
    parts.faults.reach("keep.recorded")
    await syncs.wait_for(unsynced, engine.sync, is_alone=is_alone)
    parts.faults.reach("keep.synced")
    return kept


def _copy(parts: MoveParts, inode: Inode, raw: RawId, progress: MoveProgress | None = None) -> None:
    """Copy a raw file into a new one, durably.

    Args:
        parts: What moves work with.
        inode: Has the raw file.
        raw: The new one.
        progress: Told by a worker thread of trio's, which may be cancelled; None: it is too short.
    """
    with new_raw(parts, inode.raw, raw, "keep.created") as (source, target):
        clone_file(source, target, None if progress is None else progress.advance)
        status = os.fstat(source)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(target)
    parts.raw_store.sync_directory(raw)
    parts.faults.reach("keep.written")
