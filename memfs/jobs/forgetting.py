"""Forgetting: a source goes, and page by page what is known of its objects.

Invariant: nothing goes while an object of the source stands for a file, or for what a snapshot
shows. What is cut off is a source with fewer rows, which nobody watches; it is forgotten again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.errors import InvalidValueError, StaleInodeError
from memfs.moves.attempt import sources_of

if TYPE_CHECKING:
    from memfs.metadata.foreign import ForeignObject, Source
    from memfs.moves.attempt import MoveParts

ROWS_A_CHANGE = 250
"""Rows that go in one change of the engine, some 5 ms. Guess."""


async def forget_source(parts: MoveParts, source: Source) -> None:
    """Give a source up; the caller has it to itself.

    Checkpoint: always. Cancel: safe.

    Raises:
        InvalidValueError: Files, or snapshots, have nothing but its objects; then nothing is done.
    """
    engine = parts.engine
    after = b""
    while rows := await engine.list_objects(source.source, after, ROWS_A_CHANGE):
        for row in rows:
            if not await engine.can_detach(row.ino):
                raise await _refusal(parts, source, row)
        after = rows[-1].key
        await trio.lowlevel.checkpoint()
    async with engine.change():
        # A listing would find keys again that are forgotten already.
        await engine.put_source(source._replace(watch_s=0))
        await engine.forget_directories(source.source)
    while rows := await engine.list_objects(source.source, b"", ROWS_A_CHANGE):
        async with engine.change():
            for row in rows:
                if not await engine.detach_object(row.ino):
                    raise await _refusal(parts, source, row)
        parts.faults.reach("release.dropped")
        await trio.lowlevel.checkpoint()
    while keys := await engine.list_gone(source.source, b"", ROWS_A_CHANGE):
        async with engine.change():
            await engine.clear_gone(source.source, keys)
        parts.faults.reach("release.dropped")
        await trio.lowlevel.checkpoint()
    async with engine.change():
        await engine.remove_source(source.source)
    await sources_of(parts).forget(source.source)


async def _refusal(parts: MoveParts, source: Source, row: ForeignObject) -> InvalidValueError:
    """Return why an object cannot be forgotten."""
    try:
        inode = await parts.engine.get_inode(row.ino)
    except StaleInodeError:
        inode = None
    if inode is not None and row.generation == inode.generation:
        return InvalidValueError(
            f"{source.url}: files have their bytes there, as {row.name}; run memfs adopt --own, or "
            "remove them, first"
        )
    return InvalidValueError(
        f"{source.url}: a snapshot shows {row.name} as it is there; delete the snapshots first"
    )
