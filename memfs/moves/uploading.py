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
from typing import TYPE_CHECKING

import trio

from memfs.errors import CorruptDataError, NotSupportedError
from memfs.metadata.records import Blob, Form, InodeFlags, MoveKind
from memfs.moves.attempt import recorded
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import blob_of, codec_of, find_form
from memfs.stores.disk import disk_errors
from memfs.stores.packing import pack_file
from memfs.stores.reading import FrameReader
from memfs.types import BlobId, FormKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.codecs.codec import Codec
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.packing import PackedSummary
    from memfs.stores.store import RemoteStore
    from memfs.types import Generation, InodeNo


def object_key(blob: BlobId, generation: Generation) -> str:
    """Return a key that was never used.

    The random part also keeps apart two state directories with the same bucket and prefix.
    """
    return f"blobs/{blob & 0xFF:02x}/{blob:x}-{generation:x}-{secrets.token_hex(8)}"


async def upload(parts: MoveParts, ino: InodeNo) -> MoveResult:
    """Give a sealed file its remote form.

    Raises:
        NotSupportedError: There is no glacier tier.
        StaleInodeError: The file is gone.
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for the compressed copy.
        CorruptDataError: The object does not read back equal, or its source is damaged.
    """
    if parts.remote is None:
        raise NotSupportedError("no glacier tier is configured: set glacier.url")
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
            async with _source(parts, inode, number, progress) as (path, blob, codec):
                parts.faults.reach("upload.prepared")
                with disk_errors(str(path)):
                    stored_bytes = path.stat().st_size
                await parts.remote.put_file(key, path)
            parts.faults.reach("upload.stored")
            await _verify(parts.remote, key, stored_bytes, blob, progress)
            parts.faults.reach("upload.verified")
        form = Form(blob.blob, FormKind.REMOTE, key, codec, stored_bytes)
        published = await attempt.publish_form(blob, form)
    parts.faults.reach("upload.published")
    return MoveResult(MoveOutcome.DONE if published else MoveOutcome.SUPERSEDED, stored_bytes)


@contextlib.asynccontextmanager
async def _source(
    parts: MoveParts, inode: Inode, number: BlobId, progress: MoveProgress
) -> AsyncIterator[tuple[Path, Blob, str]]:
    """Give a local container of the file for the block: path, blob, codec.

    The packed file as it is where its codec is the wanted one or nothing else is local; otherwise
    a temporary one from the raw file.
    """
    codec = await codec_of(parts, inode.ino, parts.config.glacier.codec)
    packed = await find_form(parts, inode, FormKind.PACKED)
    if packed is not None and (packed.codec == str(codec.spec) or not inode.raw):
        blob = await parts.engine.get_blob(inode.blob)
        yield parts.packed_store.path(packed.location), blob, packed.codec
        return
    temporary = parts.packed_store.temporary_path(f"upload-{inode.ino}")
    try:
        summary = await trio.to_thread.run_sync(
            _write, parts, inode, codec, temporary, progress, limiter=parts.threads
        )
        yield temporary, await blob_of(parts, inode, number, summary), str(codec.spec)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(functools.partial(temporary.unlink, missing_ok=True))


def _write(
    parts: MoveParts, inode: Inode, codec: Codec, target: Path, progress: MoveProgress
) -> PackedSummary:
    def advance(done_bytes: int, stored_bytes: int) -> None:
        progress.done_bytes = done_bytes // 2
        trio.from_thread.check_cancelled()

    with disk_errors(str(target)):
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        source = parts.raw_store.path(inode.raw)
        return pack_file(source, fd, codec, parts.config.cold.frame_bytes, advance)
    finally:
        os.close(fd)


async def _verify(
    remote: RemoteStore, key: str, stored_bytes: int, blob: Blob, progress: MoveProgress
) -> None:
    half = progress.done_bytes

    def advance(done_bytes: int) -> None:
        progress.done_bytes = half + (progress.total_bytes - half) * done_bytes // max(1, blob.size)

    name = f"{remote.url}/{key}"
    reader = await FrameReader.open(functools.partial(remote.get_range, key), stored_bytes, name)
    if reader.table.digest != blob.digest:
        raise CorruptDataError(f"{name}: reads back with another digest than the file has")
    await reader.verify(advance)
