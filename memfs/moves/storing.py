"""Storing: an object is put, read back, archived and published, whatever it holds.

The order, with the fault points of a move, and what a kill between two of them leaves:

1. The intent is on stable storage. *Killed*: an intent, which the next start rolls back.
2. The object is put (`MOVE.prepared`, `MOVE.stored`). *Killed from here on*: half an object, or all
   of it, which the intent names: it becomes garbage.
3. It was read back from the store, and each form in it has the digest of its content
   (`MOVE.verified`).
4. It is in its storage class, and one change of the engine publishes its forms and ends the intent
   (`MOVE.published`).

Invariant: no form is published whose bytes did not come back from the store with their digest.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from memfs.errors import CorruptDataError
from memfs.moves.coding import unlock
from memfs.moves.streaming import is_short
from memfs.stores.contents import object_name, open_content
from memfs.stores.disk import disk_errors, open_plain, write_all
from memfs.stores.reading import PackedFile
from memfs.stores.store import PART_BYTES
from memfs.types import Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from memfs.metadata.records import Blob, Form
    from memfs.moves.attempt import Attempt, MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.store import RemoteStore
    from memfs.types import IntentId

log = logging.getLogger(__name__)

T = TypeVar("T")

MEMORY_BYTES_MAX = 24 << 20
"""Limit of a temporary file in memory: a batch of the default size and one more file."""


class Stored(NamedTuple):
    """A form that lies in an object, and the content that it must hold."""

    form: Form
    blob: Blob


async def store_object(
    parts: MoveParts,
    remote: RemoteStore,
    attempt: Attempt,
    move: str,
    put: Callable[[], Awaitable[Sequence[Stored]]],
    publish: Callable[[IntentId, Sequence[Stored]], Awaitable[T]],
    progress: MoveProgress | None = None,
) -> T | None:
    """Store the object that an attempt names, and publish what it holds.

    Args:
        attempt: Recorded; its location is the key of the object.
        move: Name that its fault points begin with.
        put: Puts the object and tells what lies in it: one form that is all of it, or those of a
            batch. Nothing: there is nothing to store.
        publish: Publishes the forms by the engine and ends the intent, in one call.
        progress: That of the move; half of it by the time that the object is put.

    Returns:
        What `publish` returned; None if there was nothing to store.

    Raises:
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room to read a batch back.
        CorruptDataError: The object does not read back equal.
    """
    # A crash of the machine must not forget the intent and leave an object that nobody knows.
    await parts.file_syncs.sync()
    stored = await put()
    if not stored:
        return None
    parts.faults.reach(f"{move}.stored")
    if stored[0].form.place.offset is None:
        await _verify(parts, remote, stored[0], progress)
    else:
        await _verify_batch(parts, remote, attempt.location, stored)
    if progress is not None:
        progress.done_bytes = progress.total_bytes
    parts.faults.reach(f"{move}.verified")
    await remote.archive(attempt.location)
    result = await attempt.publish(lambda intent: publish(intent, stored))
    parts.faults.reach(f"{move}.published")
    return result


@contextlib.asynccontextmanager
async def temporary_file(
    parts: MoveParts, name: str, size_max: int | None = None
) -> AsyncIterator[tuple[Path, int]]:
    """Give an empty file for the block: path, and a descriptor for reading and writing.

    Args:
        name: That of the file.
        size_max: What may be written to it; where the disk has no room for that and it is little,
            the file is one in memory. None: it is on the disk.
    """
    if size_max is not None and _goes_to_memory(parts, size_max):
        fd = os.memfd_create(f"memfs-{name}", os.MFD_CLOEXEC)
        try:
            yield Path(f"/proc/self/fd/{fd}"), fd
        finally:
            os.close(fd)
        return
    path = parts.packed_store.temporary_path(name)
    with disk_errors(str(path)):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield path, fd
    finally:
        os.close(fd)
        await _remove(path)


def _goes_to_memory(parts: MoveParts, size_max: int) -> bool:
    # Twice: the copy that is put, and the one that is read back.
    directory = parts.packed_store.temporary_dir
    return size_max <= MEMORY_BYTES_MAX and is_short(directory, 2 * size_max)


async def _remove(path: Path) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(functools.partial(path.unlink, missing_ok=True))


async def _verify(
    parts: MoveParts, remote: RemoteStore, stored: Stored, progress: MoveProgress | None
) -> None:
    """Read an object back whole, by ranges: it may be larger than the disk has room for."""
    form, blob = stored
    half = 0 if progress is None else progress.done_bytes

    def advance(done_bytes: int) -> None:
        if progress is not None:
            rest = progress.total_bytes - half
            progress.done_bytes = half + rest * done_bytes // max(1, blob.size)

    reader = await open_content(remote, form, unlock(parts, blob, form.coding))
    await reader.verify(advance, parts.zeros)


async def _verify_batch(
    parts: MoveParts, remote: RemoteStore, key: str, stored: Sequence[Stored]
) -> None:
    """Fetch a batch back, at once, and decode every form in it; once more if one is wrong."""
    try:
        await _verify_batch_once(parts, remote, key, stored)
    except CorruptDataError as error:
        log.info("%s; the batch is fetched again", error)
        await _verify_batch_once(parts, remote, key, stored)


async def _verify_batch_once(
    parts: MoveParts, remote: RemoteStore, key: str, stored: Sequence[Stored]
) -> None:
    async with _fetched(parts, remote, key, stored[-1].form.end) as path:
        await trio.to_thread.run_sync(
            _verify_fetched,
            parts,
            path,
            object_name(remote, Place(key)),
            stored,
            limiter=parts.threads,
        )


@contextlib.asynccontextmanager
async def _fetched(
    parts: MoveParts, remote: RemoteStore, key: str, size: int
) -> AsyncIterator[Path]:
    """Give a local copy of an object for the block."""
    if _goes_to_memory(parts, size):
        async with temporary_file(parts, "batch-back", size) as (path, fd):
            for start in range(0, size, PART_BYTES):
                data = await remote.get_range(key, start, min(start + PART_BYTES, size))
                await trio.to_thread.run_sync(write_all, fd, data, limiter=parts.threads)
                del data  # not to be in memory beside the next part
            yield path
        return
    path = parts.packed_store.temporary_path("batch-back")
    try:
        await remote.get_file(key, path)
        yield path
    finally:
        await _remove(path)


def _verify_fetched(parts: MoveParts, path: Path, name: str, stored: Sequence[Stored]) -> None:
    with disk_errors(str(path)):
        fd = open_plain(path, follows=True)
    try:
        for form, blob in stored:
            trio.from_thread.check_cancelled()
            with PackedFile(
                os.dup(fd),
                f"{name} at {form.start}",
                unlock=unlock(parts, blob, form.coding),
                start=form.start,
                stored_bytes=form.stored_bytes,
            ) as packed:
                packed.verify()
    finally:
        os.close(fd)
