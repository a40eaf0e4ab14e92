"""Upload: a sealed file also gets an object in the glacier store.

Invariant: the object was read back whole from the store and has the file's digest before it is
published, and no two attempts ever write the same key.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from memfs.errors import NotSupportedError
from memfs.metadata.records import Form, InodeFlags, MoveKind
from memfs.moves.attempt import recorded
from memfs.moves.coding import unlock
from memfs.moves.containers import Container, append_container, find_packed, fits_store
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form, live_blob
from memfs.moves.streaming import is_short, stream_container
from memfs.stores.disk import disk_errors
from memfs.stores.reading import FrameReader
from memfs.types import BlobId, FormKind, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.store import RemoteStore
    from memfs.types import Generation, InodeNo


MEMORY_BYTES_MAX = 24 << 20
"""Of a temporary file in memory: a batch of the default size and one more file."""


def container_bytes_max(size: int) -> int:
    """Return what a container of `size` bytes takes at most, its table included."""
    return size + size // 32 + 4096


def object_key(blob: BlobId, generation: Generation) -> str:
    """Return a key that was never used.

    The random part also keeps apart two state directories with the same bucket and prefix.
    """
    return f"blobs/{blob & 0xFF:02x}/{blob:x}-{generation:x}-{secrets.token_hex(8)}"


async def upload(parts: MoveParts, ino: InodeNo) -> MoveResult:
    """Give a sealed file its remote form; waits while another upload of it is under way.

    Raises:
        NotSupportedError: There is no glacier tier.
        StaleInodeError: The file is gone.
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for the compressed copy.
        CorruptDataError: The object does not read back equal, or its source is damaged.
        EncryptionKeyError: Its source is encrypted with a key that is not configured.
    """
    if parts.remote is None:
        raise NotSupportedError("no glacier tier is configured: set glacier.url")
    async with parts.uploading.hold(ino):
        return await _upload(parts, parts.remote, ino)


async def _upload(parts: MoveParts, remote: RemoteStore, ino: InodeNo) -> MoveResult:
    inode = await parts.engine.get_inode(ino)
    if inode.flags & InodeFlags.UNSEALED:
        return MoveResult(MoveOutcome.BUSY)
    if not stat.S_ISREG(inode.mode) or await find_form(parts, inode, FormKind.REMOTE):
        return MoveResult(MoveOutcome.UNNEEDED)
    if await parts.sealer.adopt_if_changed(inode):
        return MoveResult(MoveOutcome.SUPERSEDED)
    number = parts.engine.reserve_blob()
    key = object_key(inode.blob or number, inode.generation)
    async with recorded(parts, MoveKind.UPLOAD, inode, key) as attempt:
        # A crash of the machine must not forget the intent and leave an object that nobody knows.
        await trio.to_thread.run_sync(parts.syncer.sync, limiter=parts.threads)
        with parts.progress.track("upload", ino, inode.size) as progress:
            container = await _store(parts, remote, key, inode, number, progress)
            parts.faults.reach("upload.stored")
            await verify_object(parts, key, container, progress)
            parts.faults.reach("upload.verified")
            await remote.archive(key)
        blob, coding, stored_bytes = container
        form = Form(blob.blob, FormKind.REMOTE, Place(key), coding, stored_bytes)
        published = await attempt.publish_form(blob, form)
    parts.faults.reach("upload.published")
    return MoveResult(MoveOutcome.DONE if published else MoveOutcome.SUPERSEDED, stored_bytes)


async def _store(
    parts: MoveParts,
    remote: RemoteStore,
    key: str,
    inode: Inode,
    number: BlobId,
    progress: MoveProgress,
) -> Container:
    """Store a file's container: from a copy on the disk, or while it is made if that is full."""
    size_max = container_bytes_max(inode.size)
    packed = await find_packed(parts, inode)
    if (packed is None or not fits_store(parts, packed)) and is_short(
        parts.packed_store.temporary_dir, size_max
    ):

        def advance(done_bytes: int) -> None:
            progress.done_bytes = done_bytes // 2
            trio.from_thread.check_cancelled()

        return await stream_container(parts, remote, key, inode, number, size_max, advance)
    async with _source(parts, inode, number, progress) as (path, container):
        parts.faults.reach("upload.prepared")
        await remote.put_file(key, path)
        return container


@contextlib.asynccontextmanager
async def _source(
    parts: MoveParts, inode: Inode, number: BlobId, progress: MoveProgress
) -> AsyncIterator[tuple[Path, Container]]:
    """Give a local container of the file for the block, and where it is.

    The packed file itself where it is as objects are to be; otherwise a temporary one.
    """
    packed = await find_packed(parts, inode)
    if packed is not None and fits_store(parts, packed):
        blob = await live_blob(parts, inode)
        path = parts.packed_store.path(packed.place.key)
        yield path, Container(blob, packed.coding, packed.stored_bytes)
        return

    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_bytes // 2
        trio.from_thread.check_cancelled()

    async with temporary_file(parts, f"upload-{inode.ino}") as (path, fd):
        yield path, await append_container(parts, inode, number, fd, advance)


@contextlib.asynccontextmanager
async def temporary_file(
    parts: MoveParts, name: str, size_max: int | None = None
) -> AsyncIterator[tuple[Path, int]]:
    """Give an empty file for the block: path, and a descriptor for reading and writing.

    Args:
        parts: What moves work with.
        name: Of the file.
        size_max: What may be written to it; where the disk has no room for that and it is little,
            the file is one in memory. None: it is on the disk.
    """
    if (
        size_max is not None
        and size_max <= MEMORY_BYTES_MAX
        and is_short(parts.packed_store.temporary_dir, 2 * size_max)
    ):
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
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(functools.partial(path.unlink, missing_ok=True))


async def verify_object(
    parts: MoveParts, key: str, container: Container, progress: MoveProgress
) -> None:
    """Read an object back whole; `CorruptDataError` unless it holds the container's blob."""
    remote, blob = parts.remote, container.blob
    assert remote is not None
    half = progress.done_bytes

    def advance(done_bytes: int) -> None:
        progress.done_bytes = half + (progress.total_bytes - half) * done_bytes // max(1, blob.size)

    name = f"{remote.url}/{key}"
    reader = await FrameReader.open(
        functools.partial(remote.get_range, key),
        container.stored_bytes,
        name,
        unlock(parts, blob, container.coding),
        remote.slots,
    )
    await reader.verify(advance, parts.zeros)
