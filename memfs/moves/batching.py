"""Batch: the containers of many small files in one object, and the compaction of such objects.

Invariant: the object was fetched back whole, and every container in it decoded with its file's
digest, before one engine call publishes them all; no two attempts ever write the same key.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from typing import TYPE_CHECKING

import trio

from memfs.addresses import address_of, store_of
from memfs.errors import (
    CorruptDataError,
    EncryptionKeyError,
    NotFoundError,
    StaleInodeError,
    StoreError,
)
from memfs.metadata.records import (
    BatchMember,
    Blob,
    Form,
    FormReplacement,
    InodeFlags,
    MoveKind,
)
from memfs.moves.attempt import recorded, writable_store
from memfs.moves.choosing import chosen_store
from memfs.moves.coding import unlock
from memfs.moves.containers import append_container
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form
from memfs.moves.sharing import first_of_each
from memfs.moves.storing import Stored, store_object, temporary_file
from memfs.moves.uploading import container_bytes_max, note_uploaded
from memfs.stores.contents import object_name, range_reader
from memfs.stores.disk import write_all
from memfs.stores.reading import PackedFile
from memfs.stores.restoring import without_restores
from memfs.types import FormKind, Place

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from memfs.metadata.records import Batch, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.envelope import Unlock
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo, IntentId

log = logging.getLogger(__name__)

_LEFT_OUT = (
    CorruptDataError,
    EncryptionKeyError,
    NotFoundError,
    StaleInodeError,
    StoreError,
)
"""What speaks against one file, which may also have gone meanwhile, and not against the batch."""


def batch_key() -> str:
    """Return a key that was never used: random, so that no state directory meets another."""
    name = secrets.token_hex(12)
    return f"batches/{name[:2]}/{name[2:]}"


async def upload_batch(
    parts: MoveParts, inos: Sequence[InodeNo], store: str = ""
) -> dict[InodeNo, MoveResult]:
    """Give sealed files their remote forms in one object.

    Args:
        inos: Small files: all of them are on the local disk once more while it is made.
        store: Name of the store that they belong in; empty: the default one.

    Returns:
        An outcome for each file; one whose content cannot be read, that is being uploaded by
        somebody else, that belongs in another store, or that shares its content with one in the
        batch, is `SUPERSEDED` here and told apart by its own upload.

    Raises:
        NotSupportedError: There is no glacier tier.
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for the batch.
        CorruptDataError: The object does not read back equal.
    """
    remote = writable_store(parts)
    inodes = []
    for ino in inos:
        with contextlib.suppress(StaleInodeError):
            inodes.append(await parts.engine.get_inode(ino))
    first = first_of_each(inodes)
    with parts.uploading.hold_free(first) as entered:
        free = {first[key] for key in entered}
        return await _upload_batch(parts, remote, inos, free, store)


async def _upload_batch(
    parts: MoveParts,
    remote: RemoteStore,
    inos: Sequence[InodeNo],
    free: Collection[InodeNo],
    store: str,
) -> dict[InodeNo, MoveResult]:
    results: dict[InodeNo, MoveResult] = {}
    chosen: list[Inode] = []
    for ino in dict.fromkeys(inos):
        if ino not in free:
            results[ino] = MoveResult(MoveOutcome.SUPERSEDED)
            continue
        inode, outcome = await _look_at(parts, ino, store)
        if inode is not None:
            chosen.append(inode)
        results[ino] = MoveResult(outcome)
    if not chosen:
        return results
    key = address_of(store, batch_key())
    made: list[Inode] = []
    """The files whose containers are in the batch, in order."""

    async def publish(intent: IntentId, stored: Sequence[Stored]) -> list[MoveResult]:
        members = [
            BatchMember(inode.ino, inode.generation, blob, form)
            for inode, (form, blob) in zip(made, stored, strict=True)
        ]
        size_bytes = stored[-1].form.end
        published = await parts.engine.publish_batch(intent, key, size_bytes, members)
        for inode, is_published in zip(made, published, strict=True):
            if is_published:
                note_uploaded(parts, inode)
        return [
            MoveResult(MoveOutcome.DONE if yes else MoveOutcome.SUPERSEDED, form.stored_bytes)
            for (form, _), yes in zip(stored, published, strict=True)
        ]

    async with recorded(parts, MoveKind.BATCH, key) as attempt:
        with parts.progress.track("upload", None, sum(inode.size for inode in chosen)) as progress:

            async def put() -> list[Stored]:
                size_max = sum(container_bytes_max(inode.size) for inode in chosen)
                async with temporary_file(parts, "batch", size_max) as (path, fd):
                    stored = await _fill(parts, key, chosen, fd, progress, made)
                    if stored:
                        parts.faults.reach("batch.prepared")
                        await remote.put_file(key, path)
                return stored

            answers = await store_object(parts, remote, attempt, "batch", put, publish, progress)
    for inode, result in zip(made, answers or (), strict=True):
        results[inode.ino] = result
    return results


async def compact(parts: MoveParts, batch: Batch) -> int:
    """Copy what is alive of a batch into a new object; the old one becomes garbage.

    Returns:
        The bytes that the old object frees.

    Raises:
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for the batch.
        CorruptDataError: A container in it is damaged: nothing changes, so that what is still
            readable of it stays where it is.
    """
    remote = writable_store(parts)
    forms = await parts.engine.list_batched(batch.key)
    if not forms:
        return 0
    # A batch stays in its store: its files are moved to another one by `moves.relocating`.
    key = address_of(store_of(batch.key), batch_key())
    replacements: list[FormReplacement] = []

    async def put() -> list[Stored]:
        size_max = sum(form.stored_bytes for form in forms)
        async with temporary_file(parts, "batch", size_max) as (path, fd):
            stored = await _copy_parts(parts, remote, key, forms, fd, replacements)
            if stored:
                parts.faults.reach("compact.prepared")
                await remote.put_file(key, path)
        return stored

    async def publish(intent: IntentId, stored: Sequence[Stored]) -> int:
        size_bytes = stored[-1].form.end
        await parts.engine.replace_batched(intent, key, size_bytes, replacements)
        return batch.size_bytes - size_bytes

    async with recorded(parts, MoveKind.BATCH, key) as attempt:
        return await store_object(parts, remote, attempt, "compact", put, publish) or 0


async def _copy_parts(
    parts: MoveParts,
    remote: RemoteStore,
    key: str,
    forms: Sequence[Form],
    fd: int,
    replacements: list[FormReplacement],
) -> list[Stored]:
    """Append the containers of forms that still live, and note where each will lie."""
    stored: list[Stored] = []
    offset = 0
    for form in forms:
        try:
            blob = await parts.engine.get_blob(form.blob)
        except NotFoundError:
            continue
        data = await _fetch_part(parts, remote, form, blob)
        await trio.to_thread.run_sync(write_all, fd, data, limiter=parts.threads)
        moved = form._replace(place=Place(key, offset))
        offset += form.stored_bytes
        replacements.append(FormReplacement(form, moved))
        stored.append(Stored(moved, blob))
    return stored


async def _fetch_part(parts: MoveParts, remote: RemoteStore, form: Form, blob: Blob) -> bytes:
    """Return one file's container out of a batch, checked; asked for once more if it is wrong."""
    read_range = range_reader(remote, form)
    name = object_name(remote, form.place)

    async def fetch() -> bytes:
        with without_restores():
            stored = await read_range(0, form.stored_bytes)
        await trio.to_thread.run_sync(
            _check_part, stored, name, unlock(parts, blob, form.coding), limiter=parts.threads
        )
        return stored

    try:
        return await fetch()
    except CorruptDataError as error:
        log.info("%s; it is asked for again", error)
        return await fetch()


def _check_part(stored: bytes, name: str, unlocking: Unlock) -> None:
    fd = os.memfd_create("memfs-part", os.MFD_CLOEXEC)
    try:
        write_all(fd, stored)
    except BaseException:
        os.close(fd)
        raise
    with PackedFile(fd, name, unlock=unlocking) as packed:
        packed.verify()


async def _look_at(parts: MoveParts, ino: InodeNo, store: str) -> tuple[Inode | None, MoveOutcome]:
    try:
        inode = await parts.engine.get_inode(ino)
    except StaleInodeError:
        return None, MoveOutcome.SUPERSEDED
    if inode.flags & InodeFlags.UNSEALED:
        return None, MoveOutcome.BUSY
    if not stat.S_ISREG(inode.mode) or await find_form(parts, inode, FormKind.REMOTE):
        return None, MoveOutcome.UNNEEDED
    try:
        if await chosen_store(parts, ino) != store or await parts.sealer.adopt_if_changed(inode):
            return None, MoveOutcome.SUPERSEDED
    except (StoreError, CorruptDataError) as error:
        log.info("inode %d is left out of a batch: %s", ino, error)
        return None, MoveOutcome.SUPERSEDED
    return inode, MoveOutcome.SUPERSEDED


async def _fill(
    parts: MoveParts,
    key: str,
    inodes: Sequence[Inode],
    fd: int,
    progress: MoveProgress,
    made: list[Inode],
) -> list[Stored]:
    """Append the containers of files; those that cannot be read now are left out.

    That is the first half of the way: the other one is to store the object and to read it back.

    Args:
        key: That of the batch.
        fd: That of the batch, empty.
        progress: Told what is done.
        made: Given the files whose containers are in it.
    """
    stored: list[Stored] = []
    offset = 0
    for inode in inodes:
        try:
            number = parts.engine.reserve_blob()
            blob, coding, stored_bytes = await append_container(
                parts, inode, number, fd, _stop_if_cancelled, store_of(key)
            )
        except _LEFT_OUT as error:
            log.info("inode %d is left out of a batch: %s", inode.ino, error)
            await trio.to_thread.run_sync(os.ftruncate, fd, offset)
            os.lseek(fd, offset, os.SEEK_SET)
            continue
        progress.done_bytes += inode.size // 2
        form = Form(blob.blob, FormKind.REMOTE, Place(key, offset), coding, stored_bytes)
        stored.append(Stored(form, blob))
        made.append(inode)
        offset += stored_bytes
    return stored


def _stop_if_cancelled(_done_bytes: int) -> None:
    trio.from_thread.check_cancelled()
