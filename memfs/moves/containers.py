"""Containers for the store: made of whatever a file has on the local disk.

Invariant: what is appended is one whole container of the file's content, encrypted as objects are
to be.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import CorruptDataError
from memfs.moves.coding import choose_coding, codec_of, encryption_of, is_under, key_of, unlock
from memfs.moves.packing import blob_of, find_form, live_blob, reading_raw
from memfs.stores.disk import disk_errors, open_plain, read_fully, write_all
from memfs.stores.packing import pack_file
from memfs.stores.reading import PackedFile
from memfs.types import FormCoding, FormKind

if TYPE_CHECKING:
    from memfs.metadata.records import Blob, Form, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.stores.disk import ByteProgress
    from memfs.stores.packing import PackedSummary
    from memfs.types import BlobId

COPY_BYTES = 1 << 20
"""Bytes copied at a time from a packed file."""


class Container(NamedTuple):
    """A container that is written."""

    blob: Blob
    coding: FormCoding
    stored_bytes: int


async def find_packed(parts: MoveParts, inode: Inode, store: str) -> Form | None:
    """Return the packed form where its frames may serve as those of an object.

    They do where their codec is the one of objects, or where nothing else is local.

    Args:
        store: Name of the store of the object.

    Raises:
        CorruptDataError: There is no raw file either.
    """
    packed = await find_form(parts, inode, FormKind.PACKED)
    if packed is None:
        if not inode.raw:
            raise CorruptDataError(
                f"inode {inode.ino}: no form of its content is left here or in a store; run memfs "
                "fsck, or write it anew"
            )
        return None
    if not inode.raw:
        return packed
    codec = await codec_of(parts, inode.ino, parts.config.store(store).codec)
    return packed if packed.coding.codec == str(codec.spec) else None


def fits_store(parts: MoveParts, packed: Form, store: str) -> bool:
    """Return whether a packed file may be uploaded as it is: under the key of a store's objects."""
    return is_under(packed.coding, key_of(parts, FormKind.REMOTE, store))


async def append_container(
    parts: MoveParts,
    inode: Inode,
    number: BlobId,
    fd: int,
    on_progress: ByteProgress,
    store: str = "",
) -> Container:
    """Append a file's container to a local file.

    Args:
        inode: Has a raw file or a packed form.
        number: Reserved for the blob, if the inode has no blob yet.
        fd: Writable, at the position to write to; not fsynced.
        on_progress: Told the bytes of the content done, in a worker thread; may raise to stop.
        store: Name of the store that it goes to; empty: the default one.

    Raises:
        NoSpaceError: The disk is full.
        StoreError: The source cannot be read.
        CorruptDataError: The packed form is damaged, or the raw file differs from it.
        EncryptionKeyError: The key of the packed form is not configured.
    """
    packed = await find_packed(parts, inode, store)
    if packed is not None:
        blob = await live_blob(parts, inode)
        if fits_store(parts, packed, store):
            await trio.to_thread.run_sync(
                _copy, parts, blob, packed, fd, on_progress, limiter=parts.threads
            )
            return Container(blob, packed.coding, packed.stored_bytes)
        stored_bytes, coding = await trio.to_thread.run_sync(
            _reencrypt, parts, inode, blob, packed, fd, on_progress, store, limiter=parts.threads
        )
        return Container(blob, coding, stored_bytes)
    return await _pack(parts, inode, number, fd, on_progress, store)


async def _pack(
    parts: MoveParts,
    inode: Inode,
    number: BlobId,
    fd: int,
    on_progress: ByteProgress,
    store: str,
) -> Container:
    coding = await choose_coding(parts, inode, parts.config.store(store).codec)
    encryption = encryption_of(parts, FormKind.REMOTE, inode, inode.blob or number, store)

    def write() -> PackedSummary:
        def advance(done_bytes: int, stored_bytes: int) -> None:
            on_progress(done_bytes)
            rest()

        source = parts.raw_store.path(inode.raw)
        frame_bytes = parts.config.cold.frame_bytes
        with reading_raw(parts, inode) as check, parts.throttle.stint(check) as rest:
            return pack_file(
                source,
                fd,
                coding.codec,
                frame_bytes,
                advance,
                shuffle_bytes=coding.shuffle_bytes,
                encryption=encryption,
                zeros=parts.zeros,
            )

    summary = await trio.to_thread.run_sync(write, limiter=parts.threads)
    parts.tally.note_packed(summary)
    blob = await blob_of(parts, inode, number, summary)
    return Container(blob, summary.table.coding, summary.stored_bytes)


def _reencrypt(
    parts: MoveParts,
    inode: Inode,
    blob: Blob,
    packed: Form,
    fd: int,
    on_progress: ByteProgress,
    store: str,
) -> tuple[int, FormCoding]:
    encryption = encryption_of(parts, FormKind.REMOTE, inode, packed.blob, store)
    path = parts.packed_store.path(packed.place.key)
    with PackedFile.open(path, unlock=unlock(parts, blob, packed.coding)) as source:
        stored_bytes, table = source.reencrypt_to(fd, encryption, on_progress)
    return stored_bytes, table.coding


def _copy(
    parts: MoveParts, blob: Blob, packed: Form, target_fd: int, on_progress: ByteProgress
) -> None:
    path = parts.packed_store.path(packed.place.key)
    # One that holds another content is found before it is sent, and spoils no batch.
    PackedFile.open(path, unlock=unlock(parts, blob, packed.coding)).close()
    with disk_errors(str(path)), parts.throttle.stint() as rest:
        fd = open_plain(path)
        try:
            for start in range(0, packed.stored_bytes, COPY_BYTES):
                size = min(COPY_BYTES, packed.stored_bytes - start)
                write_all(target_fd, read_fully(fd, size, start))
                on_progress(start + size)
                rest()
        finally:
            os.close(fd)
