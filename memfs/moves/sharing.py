"""Sharing: what moves of a file mean for others that have the same blob.

Clones and restored files share the packed and remote forms of their originals. The engine sees to
it that no form goes that one of them still needs for its bytes; here is what else they owe each
other.

Invariant: bytes that come from another file's raw file have the digest of the blob.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from memfs.errors import CorruptDataError, MemfsError
from memfs.metadata.records import InodeFlags
from memfs.stores.digesting import digest_file
from memfs.stores.disk import clone_file, disk_errors
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.metadata.records import Blob, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress

SHARERS_MAX = 100
"""Looked at; with more, nobody asks all of them. Guess."""


async def is_wanted_by_others(parts: MoveParts, inode: Inode) -> bool:
    """Return whether another file wants the packed form that it shares to stay on the disk.

    That is one with a pin to a faster tier than the store, or one without a pin that was used
    later.
    """
    for other in await parts.engine.list_sharers(inode.blob, SHARERS_MAX) if inode.blob else ():
        if other.ino == inode.ino or not other.nlink:
            continue
        pin = (await parts.engine.effective_pin(other.ino)).tier
        if pin is None and other.accessed_ns > inode.accessed_ns:
            return True
        if pin is not None and pin != Tier.GLACIER:
            return True
    return False


def upload_key(inode: Inode) -> InodeNo:
    """Return what stands for a file in `MoveParts.uploading`: files that share share one upload.

    Inodes and blobs have their numbers from one lease, so that they are never the same.
    """
    return InodeNo(inode.blob or inode.ino)


def first_of_each(inodes: Iterable[Inode]) -> dict[InodeNo, InodeNo]:
    """Return the first of the files that share, by the key of their upload."""
    found: dict[InodeNo, InodeNo] = {}
    for inode in inodes:
        found.setdefault(upload_key(inode), inode.ino)
    return found


async def fill_from_sharer(
    parts: MoveParts, inode: Inode, blob: Blob, fd: int, progress: MoveProgress
) -> bool:
    """Write the content of a blob into a file from the raw file of another one that shares it.

    Checkpoint: if there is such a one. Cancel: safe.

    Args:
        parts: What moves work with.
        inode: A file without a raw file.
        blob: Its content.
        fd: Writable, at its beginning, and readable by its path in /proc.
        progress: Told the bytes done.

    Returns:
        False if no other file has it; what was written is to be overwritten then.
    """
    for other in await parts.engine.list_sharers(inode.blob, SHARERS_MAX):
        if not other.raw or other.flags & InodeFlags.UNSEALED or parts.sealer.damage_of(other):
            continue
        try:
            await trio.to_thread.run_sync(
                _copy, parts, other, blob, fd, progress, limiter=parts.prompt_threads
            )
        except (MemfsError, OSError):
            continue
        return True
    return False


def _copy(parts: MoveParts, other: Inode, blob: Blob, fd: int, progress: MoveProgress) -> None:
    source = parts.raw_store.open(other.raw, os.O_RDONLY)
    try:
        with disk_errors(str(parts.raw_store.path(other.raw))):
            os.ftruncate(fd, 0)
            clone_file(source, fd, progress.advance)
    finally:
        os.close(source)
    path = Path(f"/proc/self/fd/{fd}")
    if digest_file(path, lambda _: trio.from_thread.check_cancelled(), parts.zeros) != blob.digest:
        raise CorruptDataError(f"raw file {other.raw} differs from blob {blob.blob}")
