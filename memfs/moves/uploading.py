"""Upload: a sealed file also gets an object in the glacier store.

Invariant: the object was read back whole from the store and has the file's digest before it is
published, and no two attempts ever write the same key.
"""

from __future__ import annotations

import contextlib
import secrets
import stat
from typing import TYPE_CHECKING

import trio

from memfs.addresses import address_of, store_of
from memfs.metadata.records import Form, InodeFlags, MoveKind
from memfs.metrics.traffic import Level
from memfs.moves.attempt import recorded, writable_store
from memfs.moves.choosing import chosen_store
from memfs.moves.containers import Container, append_container, find_packed, fits_store
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form, live_blob, publish_form
from memfs.moves.sharing import upload_key
from memfs.moves.storing import Stored, store_object, temporary_file
from memfs.moves.streaming import is_short, stream_container
from memfs.types import BlobId, FormKind, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.store import RemoteStore
    from memfs.types import Generation, InodeNo, IntentId


def container_bytes_max(size: int) -> int:
    """Return what a container of `size` bytes takes at most, its table included."""
    return size + size // 32 + 4096


def object_key(blob: BlobId, generation: Generation) -> str:
    """Return a key that was never used, in any store.

    The random part also keeps apart two state directories with the same bucket and prefix.
    """
    return f"blobs/{blob & 0xFF:02x}/{blob:x}-{generation:x}-{secrets.token_hex(8)}"


async def upload(
    parts: MoveParts, ino: InodeNo, *, seen: Inode | None = None, replacing: Form | None = None
) -> MoveResult:
    """Give a sealed file its remote form; waits while another upload of it is under way.

    Args:
        parts: What moves work with.
        ino: The file.
        seen: The file as the caller has read it just now; None: it is read.
        replacing: The remote form that it has, and the new one takes the place of, for all that
            share it. None: there is no such form.

    Raises:
        NotSupportedError: There is no glacier tier.
        StaleInodeError: The file is gone.
        StoreNotConfiguredError: The store that it belongs in is not configured.
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for the compressed copy.
        CorruptDataError: The object does not read back equal, or its source is damaged.
        EncryptionKeyError: Its source is encrypted with a key that is not configured.
    """
    remote = writable_store(parts)
    key = upload_key(seen or await parts.engine.get_inode(ino))
    if parts.uploading.is_held(key):
        # It is another one when that upload has ended.
        seen = None
    async with parts.uploading.hold(key):
        inode = seen or await parts.engine.get_inode(ino)
        return await _upload(parts, remote, inode, replacing)


async def _upload(
    parts: MoveParts, remote: RemoteStore, inode: Inode, replacing: Form | None
) -> MoveResult:
    if inode.flags & InodeFlags.UNSEALED:
        return MoveResult(MoveOutcome.BUSY)
    if not stat.S_ISREG(inode.mode):
        return MoveResult(MoveOutcome.UNNEEDED)
    if await find_form(parts, inode, FormKind.REMOTE) != replacing:
        return MoveResult(MoveOutcome.SUPERSEDED if replacing else MoveOutcome.UNNEEDED)
    if await parts.sealer.adopt_if_changed(inode):
        return MoveResult(MoveOutcome.SUPERSEDED)
    number = parts.engine.reserve_blob()
    store = await chosen_store(parts, inode.ino)
    key = address_of(store, object_key(inode.blob or number, inode.generation))

    async def publish(intent: IntentId, stored: Sequence[Stored]) -> MoveResult:
        ((form, blob),) = stored
        published = await publish_form(parts, inode, blob, form, replacing, intent)
        if published:
            note_uploaded(parts, inode)
        outcome = MoveOutcome.DONE if published else MoveOutcome.SUPERSEDED
        return MoveResult(outcome, form.stored_bytes)

    async with recorded(parts, MoveKind.UPLOAD, key, inode) as attempt:
        with parts.progress.track("upload", inode.ino, inode.size) as progress:

            async def put() -> list[Stored]:
                blob, coding, stored_bytes = await _put(parts, remote, key, inode, number, progress)
                form = Form(blob.blob, FormKind.REMOTE, Place(key), coding, stored_bytes)
                return [Stored(form, blob)]

            result = await store_object(parts, remote, attempt, "upload", put, publish, progress)
    assert result is not None, "one form was put"
    return result


def note_uploaded(parts: MoveParts, inode: Inode) -> None:
    """Count a file whose content has reached the store."""
    parts.traffic.note_move(Level.COLD if inode.raw else Level.PACKED, Level.GLACIER, inode.size)


async def _put(
    parts: MoveParts,
    remote: RemoteStore,
    key: str,
    inode: Inode,
    number: BlobId,
    progress: MoveProgress,
) -> Container:
    """Put a file's container: from a copy on the disk, or while it is made if that is full."""
    size_max, store = container_bytes_max(inode.size), store_of(key)
    packed = await find_packed(parts, inode, store)
    if (packed is None or not fits_store(parts, packed, store)) and is_short(
        parts.packed_store.temporary_dir, size_max
    ):

        def advance(done_bytes: int) -> None:
            progress.done_bytes = done_bytes // 2
            trio.from_thread.check_cancelled()

        return await stream_container(parts, remote, key, inode, number, size_max, advance)
    async with _source(parts, inode, number, store, progress) as (path, container):
        parts.faults.reach("upload.prepared")
        await remote.put_file(key, path)
        return container


@contextlib.asynccontextmanager
async def _source(
    parts: MoveParts, inode: Inode, number: BlobId, store: str, progress: MoveProgress
) -> AsyncIterator[tuple[Path, Container]]:
    """Give a local container of the file for the block, and where it is.

    The packed file itself where it is as objects are to be; otherwise a temporary one.
    """
    packed = await find_packed(parts, inode, store)
    if packed is not None and fits_store(parts, packed, store):
        blob = await live_blob(parts, inode)
        path = parts.packed_store.path(packed.place.key)
        yield path, Container(blob, packed.coding, packed.stored_bytes)
        return

    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_bytes // 2
        trio.from_thread.check_cancelled()

    async with temporary_file(parts, f"upload-{inode.ino}") as (path, fd):
        yield path, await append_container(parts, inode, number, fd, advance, store)
