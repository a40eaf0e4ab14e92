"""Mending: a file that has lost its own forms gets its bytes from its published object.

Published objects are no copies that memfs relies on: nothing is dropped because of one. They serve
where else the file would be lost.

Invariant: what comes from there counts only with the digest that the content of the file has. No
place is asked that nobody but an export has named, unless it is a bucket: anybody who may write to
a store in clear can write an export.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from memfs.errors import MemfsError
from memfs.metadata.published import PublishedObject
from memfs.moves.publish_marks import is_allowed
from memfs.moves.publish_tokens import sender_of
from memfs.stores.digesting import digest_file
from memfs.urls import CLOUDS

if TYPE_CHECKING:
    from memfs.metadata.records import Blob, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress

FetchPublished = Callable[[PublishedObject, int, Callable[[int], None]], Awaitable[None]]
"""Writes the bytes of an object into a file that is open; tells how many are there."""


async def fill_from_published(
    parts: MoveParts, inode: Inode, blob: Blob, fd: int, progress: MoveProgress
) -> bool:
    """Write the content of a blob into a file from an object that was published of it.

    Checkpoint: if there is such a one. Cancel: safe.

    Args:
        parts: What moves work with.
        inode: A file that was published.
        blob: Its content.
        fd: Writable, and readable by its path in /proc.
        progress: Told the bytes done.

    Returns:
        False if no object has it; what was written is to be overwritten then.
    """
    if parts.published is None or not parts.config.publish.mend:
        return False

    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_bytes

    for known in await parts.engine.list_published_of(inode.ino):
        if not known.generation or (known.digest, known.size) != (blob.digest, inode.size):
            continue
        if not await _is_trusted(parts, known):
            continue
        try:
            await trio.to_thread.run_sync(os.ftruncate, fd, 0)
            await parts.published(known, fd, advance)
            digest = await trio.to_thread.run_sync(
                digest_file, Path(f"/proc/self/fd/{fd}"), None, parts.zeros
            )
        except MemfsError as error:
            parts.events.note("damage", known.url, f"it cannot stand in for its file: {error}")
            continue
        if digest == blob.digest:
            path = os.fsdecode(await parts.engine.get_path(inode.ino))
            parts.events.note("damage", path, f"it was made anew from {known.url}")
            return True
    return False


async def _is_trusted(parts: MoveParts, known: PublishedObject) -> bool:
    if urlsplit(known.target).scheme in CLOUDS or is_allowed(known.target, parts.config):
        return True
    return not (await sender_of(parts.engine)).inherits(known.token)
