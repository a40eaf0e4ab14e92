"""Keep: a copy of a raw file for the snapshots that show it, before its bytes change in place.

Invariant: the copy and its record are on stable storage before the caller goes on, so that not even
power loss parts the bytes of a snapshot from it. Why no later, tells docs/internals/durability.md.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

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
    from memfs.stores.disk import ByteProgress
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


class Keeper(NamedTuple):
    """What a program that waits for a copy brings along."""

    is_alone: Callable[[], bool] = lambda: False
    """Returns whether nobody else waits for the event loop, which then makes a copy that is soon
    durable."""
    take_raw: Callable[[], RawId | None] = lambda: None
    """Returns an empty raw file that stands ready, if there is one."""


_NOBODY = Keeper()


async def keep_copy(parts: MoveParts, ino: InodeNo, keeper: Keeper = _NOBODY) -> None:
    """Give a copy of a file's bytes to the snapshots that need one, once for all who ask.

    Where the disk can, the copy shares its blocks (FICLONE), and takes no time at any size.

    Checkpoint: not on the fast path, for a small file. Cancel: safe; another waiting caller takes
    over.

    Args:
        parts: What moves work with.
        ino: A sealed file.
        keeper: Who waits.

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
            results[ino] = await _keep(parts, await parts.engine.get_inode(ino), keeper)


async def _keep(parts: MoveParts, inode: Inode, keeper: Keeper) -> bool:
    engine, syncs = parts.engine, parts.file_syncs
    ready = keeper.take_raw()
    raw = engine.reserve_ids()[1] if ready is None else ready
    copy = partial(_copy, parts, inode, raw, is_ready=ready is not None)
    unsynced, is_alone = Unsynced(inode.ino, inode.size), keeper.is_alone
    is_named = False
    try:
        async with recorded(parts, MoveKind.HYDRATE, str(int(raw)), inode) as attempt:
            is_named = True
            with parts.progress.track("keep", inode.ino, inode.size) as progress:
                if inode.size <= SMALL_BYTES_MAX:
                    await syncs.wait_for(unsynced, copy, is_alone=is_alone)
                else:
                    await leave()
                    copy_on = partial(copy, on_progress=progress.advance)
                    await trio.to_thread.run_sync(copy_on, limiter=parts.prompt_threads)
            publish = partial(engine.keep_copy, inode.ino, inode.generation, raw)
            kept = await attempt.publish(publish)
    finally:
        if not is_named and ready is not None:
            # No intent will make garbage of it.
            parts.raw_store.unlink(ready)
    parts.faults.reach("keep.recorded")
    await syncs.wait_for(unsynced, engine.sync, is_alone=is_alone)
    parts.faults.reach("keep.synced")
    return kept


def _copy(
    parts: MoveParts,
    inode: Inode,
    raw: RawId,
    *,
    is_ready: bool,
    on_progress: ByteProgress | None = None,
) -> None:
    """Copy a raw file into a new one, durably.

    Args:
        parts: What moves work with.
        inode: Has the raw file.
        raw: The new one.
        is_ready: That is there, empty.
        on_progress: Told how far it is; None: it is soon over.
    """
    with new_raw(parts, inode.raw, raw, "keep.created", is_ready=is_ready) as (source, target):
        clone_file(source, target, on_progress)
        status = os.fstat(source)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(target)
    parts.raw_store.sync_directory(raw)
    parts.faults.reach("keep.written")
